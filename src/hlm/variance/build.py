"""From terms, structures and restrictions to a `Variances`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hlm.covariance import Matrix, Template
from hlm.design import Design
from hlm.errors import DataError, DesignError
from hlm.variance.conditions import Constraint, HeldCorrelation
from hlm.variance.linear import Equation
from hlm.variance.parts import Part, Variances
from hlm.variance.restrictions import SIGMA2, element_name
from hlm.variance.rows import Known, Rows, Subset
from hlm.variance.structures import Structure, Unstructured
from hlm_ext.criterion import KernelError
from hlm_ext.linear import lower_root

Element = tuple[int, int, int]


@dataclass(frozen=True)
class Correlation:
    """A correlation that is held: effects i and j of a term, the first two where it has a structure with one.

    Attributes
    ----------
    factor, i, j : int
    value : float
    """

    factor: int
    i: int
    j: int
    value: float


def build_variances(
    design: Design,
    template: Template,
    maps: list[Matrix],
    scale: float,
    equations: Sequence[Equation],
    texts: Sequence[str] = (),
) -> Variances:
    """Lay out the free variance parameters, and make sure that there are some.

    Parameters
    ----------
    design, template, maps, scale, equations
        See `lay_out_variances`.
    texts : sequence of str
        What was asked for, for messages.

    Raises
    ------
    DataError, DesignError
        If no covariance matrices satisfy the equations, or an equation follows from a structure.
    """
    variances = lay_out_variances(design, template, maps, scale, equations)
    _check(variances, ", ".join(texts))
    return variances


def lay_out_variances(
    design: Design,
    template: Template,
    maps: list[Matrix],
    scale: float,
    equations: Sequence[Equation],
    held: Correlation | None = None,
) -> Variances:
    """Lay out the free variance parameters.

    Parameters
    ----------
    design : Design
    template : Template
    maps : list of (q, q)
        u = map @ (engine's u) of each factor, in relative units.
    scale : float
        The user's σ = scale · engine's σ.
    equations : sequence of Equation
        Reduced, in the keys of `hlm.variance.restrictions`.
    held : Correlation, optional

    Raises
    ------
    DataError, DesignError
        If a known covariance does not have its structure, or is none.
    """
    builder = _Builder(design, template, maps, scale, equations, held)
    for k, factor in enumerate(design.factors):
        for block, structure in zip(factor.blocks, factor.all_structures, strict=True):
            builder.add(k, block, structure)
    return builder.finish()


class _Builder:
    """What is known of the elements of all T, in the units of `hlm.variance.parts`, and the parts made so far."""

    def __init__(
        self,
        design: Design,
        template: Template,
        maps: list[Matrix],
        scale: float,
        equations: Sequence[Equation],
        held: Correlation | None,
    ) -> None:
        self.design = design
        self.held = held
        self.equations = list(equations)
        self.out = Variances(template, maps)
        self.out.absolute = any(equation.right for equation in equations)
        self.unit = 1 / scale**2 if self.out.absolute else 1.0
        self.known: dict[Element, float] = {}
        self.equal: dict[Element, tuple[Element, float]] = {}
        self.used: set[int] = set()
        self.slots: dict[Element, int] = {}
        self.groups: dict[Element, float] = {}
        self._sort()

    def _sort(self) -> None:
        """Take known elements and proportional variances from the equations."""
        for place, equation in enumerate(self.equations):
            (pivot, _), *rest = equation.coefficients.items()
            right = float(equation.right) * self.unit
            if pivot == SIGMA2:
                self.out.sigma_known = float(np.sqrt(right))
                self.used.add(place)
                continue
            element: Element = pivot[1:]
            if not rest:
                self.known[element] = right
            elif len(rest) == 1 and rest[0][0] == SIGMA2 and not self.out.absolute:
                self.known[element] = -float(rest[0][1])
                if element[1] == element[2] and self.known[element] < 0:
                    raise DataError(f"constraint {equation.label} makes {self._name(element)} negative")
            elif (
                len(rest) == 1 and not right and rest[0][0] != SIGMA2 and self._both_free_variances(element, rest[0][0])
            ):
                if rest[0][1] > 0:
                    raise DataError(f"constraint {equation.label}: variances cannot have opposite signs")
                self.equal[element] = rest[0][0][1:], -float(rest[0][1])
            else:
                continue
            if not self._structure(element):
                self.used.add(place)

    def _both_free_variances(self, element: Element, other: Any) -> bool:
        pair = (element, other[1:])
        return all(i == j and not self._structure((k, i, j)) for k, i, j in pair)

    def _name(self, element: Element) -> str:
        k, i, j = element
        return element_name(self.design.factors[k], i, j)

    def _structure(self, element: Element) -> Structure | None:
        """Return the structure of the term that an element belongs to; None if it is unstructured."""
        factor = self.design.factors[element[0]]
        return next(s for b, s in zip(factor.blocks, factor.all_structures, strict=True) if element[1] in b)

    def _reserve(self, count: int) -> npt.NDArray[np.intp]:
        self.out.size += count
        return np.arange(self.out.size - count, self.out.size, dtype=np.intp)

    def add(self, k: int, block: tuple[int, ...], structure: Structure | None) -> None:
        """Add the part of one term."""
        q = len(block)
        M = self.out.maps[k][np.ix_(block, block)]
        elements = {(i, j): (k, block[i], block[j]) for i in range(q) for j in range(i + 1)}
        touched = {key for equation in self.equations for key in equation.coefficients}
        free = not any(("T", *element) in touched for element in elements.values())
        if all(element in self.known for element in elements.values()):
            self._add_known(k, block, structure, M, elements)
        elif structure is not None and self._add_correlated(k, block, structure, M):
            pass
        elif structure is not None:
            self._append(k, block, structure, self._reserve(structure.size(q)), _unit(M) * np.eye(q), M)
        elif not free or self._holds(k, block):
            self._add_rows(k, block, M, elements)
        else:
            self._append(k, block, Unstructured(), self._reserve(q * (q + 1) // 2), M, None)

    def _holds(self, k: int, block: tuple[int, ...]) -> bool:
        return self.held is not None and self.held.factor == k and self.held.i in block

    def _add_correlated(self, k: int, block: tuple[int, ...], structure: Structure, M: Matrix) -> bool:
        """Add the part of a term with a held correlation, if the structure's own parameters can keep to it."""
        line = structure.correlated(self.held.value, len(block)) if self.held and self._holds(k, block) else None
        if line is None:
            return False
        part, self.held = Subset(structure, *line), None
        self._append(k, block, part, self._reserve(part.size(len(block))), _unit(M) * np.eye(len(block)), M)
        return True

    def _append(
        self, k: int, block: tuple[int, ...], structure: Structure, index: Any, A: Matrix, M: Matrix | None
    ) -> None:
        """Append a part; without M its own coordinates are those of the engine."""
        W = np.eye(len(block)) if M is None else np.asarray(np.linalg.solve(M, A), dtype=np.float64)
        self.out.parts.append(Part(k, block, structure, np.asarray(index, dtype=np.intp), A, W, M is None))

    def _add_known(
        self, k: int, block: tuple[int, ...], structure: Structure | None, M: Matrix, elements: dict[Any, Element]
    ) -> None:
        q = len(block)
        T = np.zeros((q, q))
        for (i, j), element in elements.items():
            T[i, j] = T[j, i] = self.known[element]
        name = self.design.factors[k].name
        size = np.sqrt(np.abs(np.diag(T)))
        size[size == 0] = 1.0
        correlation = T / np.outer(size, size)
        if np.linalg.eigvalsh(correlation)[0] < -1e-10:
            raise DataError(f"the known T of '{name}' is not positive semidefinite", column=name)
        if structure is not None:
            F = np.asarray(structure.root(np.asarray(structure.start(T)), q))
            if np.abs(F @ F.T - T).max() > 1e-8 * np.abs(T).max():
                raise DesignError(
                    f"the known T of '{name}' does not have the structure '{structure.name}'", column=name
                )
            self.used |= {
                place
                for place, equation in enumerate(self.equations)
                if all(key[1:] in elements.values() for key in equation.coefficients if key != SIGMA2)
            }
        self._append(k, block, Known(lower_root(correlation)), [], np.diag(size), M)

    def _add_rows(self, k: int, block: tuple[int, ...], M: Matrix, elements: dict[Any, Element]) -> None:
        q = len(block)
        units = np.sqrt((M * M).sum(axis=1))
        scales: list[int | None] = [None] * q
        empty, zero = np.zeros(q, dtype=bool), np.zeros((q, q), dtype=bool)
        slots: list[int] = []
        for i in range(q):
            element = elements[i, i]
            if element in self.known:
                empty[i] = self.known[element] == 0
                scales[i] = None if empty[i] else -1
                units[i] = 1.0 if empty[i] else np.sqrt(self.known[element])
            elif element in self.equal or any(element == other for other, _ in self.equal.values()):
                leader, ratio = self.equal.get(element, (element, 1.0))
                unit = self.groups.setdefault(leader, units[i] / np.sqrt(ratio))
                if leader not in self.slots:
                    self.slots[leader] = int(self._reserve(1)[0])
                    self.out.shared.append(self.slots[leader])
                if self.slots[leader] not in slots:
                    slots.append(self.slots[leader])
                scales[i], units[i] = slots.index(self.slots[leader]), unit * np.sqrt(ratio)
            for j in range(i):
                if self.known.get(elements[i, j]) == 0:
                    zero[i, j] = zero[j, i] = True
        held = None
        if self.held and self._holds(k, block):
            held, self.held = (block.index(self.held.i), block.index(self.held.j), self.held.value), None
        rows = Rows(scales, empty, zero, held)
        index = [*slots, *self._reserve(rows.length - rows.scales)]
        for first, last in rows.unit_rows:
            self.out.unit_rows.append(np.array(index[first:last], dtype=np.intp))
        # what F cannot hold by itself
        for (i, j), element in elements.items():
            left = (i, j) in rows.left or (self.known.get(element, 0.0) != 0 and i != j)
            if element in self.known and left:
                place = next(p for p, e in enumerate(self.equations) if next(iter(e.coefficients)) == ("T", *element))
                self.used.discard(place)
        self._append(k, block, rows, index, np.diag(units), M)

    def finish(self) -> Variances:
        """Add σ and the equations that no parametrisation holds."""
        out = self.out
        if out.absolute and not out.sigma_known:
            out.sigma = int(self._reserve(1)[0])
        parts = {(part.factor, column): (p, part) for p, part in enumerate(out.parts) for column in part.block}
        for place, equation in enumerate(self.equations):
            if place in self.used:
                continue
            terms, sigma, right = [], 0.0, float(equation.right) * self.unit
            for key, coefficient in equation.coefficients.items():
                if key == SIGMA2:
                    sigma = float(coefficient)
                    continue
                k, i, j = key[1:]
                p, part = parts[k, i]
                terms.append((p, part.block.index(i), part.block.index(j), float(coefficient)))
            if not out.absolute:  # σ² is 1 then
                sigma, right = 0.0, right - sigma
            size = max(
                [1e-300, abs(right), *(abs(c) * out.parts[p].A[i, i] * out.parts[p].A[j, j] for p, i, j, c in terms)]
            )
            scaled = tuple((p, i, j, c / size) for p, i, j, c in terms)
            out.constraints.append(Constraint(scaled, sigma / size, right / size, equation.label))
        if self.held is not None:
            p, part = parts[self.held.factor, self.held.i]
            i, j = (part.block.index(effect) for effect in (self.held.i, self.held.j))
            out.constraints.append(HeldCorrelation(p, i, j, self.held.value))
        return out


def _unit(M: Matrix) -> float:
    """Geometric mean of the standard deviations of effects at which a group tells half of them."""
    return float(np.exp(np.mean(np.log(np.sqrt((M * M).sum(axis=1))))))


def _check(variances: Variances, asked: str) -> None:
    """Make sure that the conditions can hold and are independent."""
    if not variances.conditions:
        return
    rng = np.random.default_rng(0)
    for attempt in range(20):
        x = np.abs(rng.normal(size=variances.size)) * 0.3 * (attempt > 0) + 0.5
        try:
            x = variances.project(x + 0.01 * rng.normal(size=variances.size))
        except KernelError:
            continue
        if variances.tangent(variances.conditions_at(x)[1]).shape[1] > variances.m:
            raise DataError(f"constraints are redundant: {asked} depend on each other; leave one out")
        return
    raise DataError(f"no positive semidefinite covariances satisfy {asked}")
