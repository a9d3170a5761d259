"""The equations of a model, whichever door it came through: given as equations, or derived from levels and terms."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pandas as pd

from hlm.levels import Levels
from hlm.specification.equation_reader import EquationReader
from hlm.specification.equations import Disturbance, Effect, Equation

if TYPE_CHECKING:
    from hlm.views import ModelViews

# Letters of coefficients, those of the top level first, and of errors likewise, as the textbooks have them.
COEFFICIENTS = "gbpdaklmch"
ERRORS = "urvwstqokh"

Product = tuple[str, ...]


@dataclass(frozen=True, eq=False)
class LevelEquations:
    """Equations of all levels.

    Attributes
    ----------
    levels : Levels
    equations : tuple of Equation
        First that of level 1, without its error.
    symbols : dict
        The coefficient of each fixed term, the term as a set of expressions.
    """

    levels: Levels
    equations: tuple[Equation, ...]
    symbols: dict[frozenset[str], str]

    def numbered(self) -> list[tuple[int, Equation]]:
        """Return the number of the level of each equation, and the equation; in the order of the levels."""
        by_left = {equation.left: equation for equation in self.equations[1:]}
        found: list[tuple[int, Equation]] = []
        waiting = [(1, self.equations[0])]
        for level, equation in waiting:  # grows while it is read
            found.append((level, equation))
            for effect in equation.effects:
                below = by_left.get(str(effect.coefficient))
                if below is not None:
                    waiting.append((self._level(below, level + 1), below))
        return sorted(found, key=lambda pair: pair[0])

    def _level(self, equation: Equation, least: int) -> int:
        """The level of an equation: that of its errors, or of its regressors, or the next one."""
        own = [self.levels.number[":".join(part.groups)] for part in equation.disturbances]
        own = own or [self.levels.level_of(text) for part in equation.parts for text in part.regressors]
        return max([least, *own]) if own else min(least, max(self.levels.depth, 2))

    def combined(self) -> Equation:
        """Return the combined equation: each coefficient replaced by its own equation."""
        by_left = {equation.left: equation for equation in self.equations[1:]}

        def expand(equation: Equation, before: Product) -> Iterator[Effect | Disturbance]:
            for part in equation.parts:
                product = (*before, *part.regressors)
                if isinstance(part, Disturbance):
                    yield Disturbance(part.name, part.groups, product)
                elif str(part.coefficient) in by_left:
                    yield from expand(by_left[str(part.coefficient)], product)
                else:
                    yield Effect(part.coefficient, product)

        parts = list(expand(self.equations[0], ()))
        ordered = [part for part in parts if isinstance(part, Effect)]
        return Equation(self.equations[0].left, (*ordered, *(part for part in parts if isinstance(part, Disturbance))))

    def table(self) -> pd.DataFrame:
        """Return the map between columns and coefficients, a row for each fixed column: both are unique."""
        rows = []
        for name, column in zip(self.levels.design.names, self.levels.pieces, strict=True):
            term = tuple(piece.expression for piece in column)
            # of a term with several columns (categories, polynomials) each has what its name adds to the expression's
            added = "".join(piece.name.removeprefix(piece.expression) for piece in column)
            symbol = self.symbols[frozenset(term)] + added
            rows.append((name, symbol, self.levels.label(term), self._equation_of(self.symbols[frozenset(term)])))
        return pd.DataFrame(rows, columns=["column", "coefficient", "level", "equation"]).set_index("column")

    def values(self, params: pd.Series) -> dict[str, float]:
        """Return the estimate of each coefficient that stands for one column, where there is one."""
        symbols, known = self.table()["coefficient"], set(self.symbols.values())
        return {
            symbol: params[name] for name, symbol in symbols.items() if symbol in known and params[name] == params[name]
        }

    def _equation_of(self, symbol: str) -> str:
        """The left side of the equation that a coefficient stands in."""
        return next(e.left for e in self.equations for part in e.effects if part.coefficient == symbol)


def level_equations(model: ModelViews) -> LevelEquations:
    """Return the equations of a model: as they were given, or derived from the levels on which its columns vary."""
    levels, reader = model.level_structure, model._reader
    if isinstance(reader, EquationReader):
        given = reader.substitution
        symbols = {frozenset(e.text for e in term): name for term, name in given.symbols.items()}
        return LevelEquations(levels, given.equations, symbols)
    offsets = [] if reader is None else [offset.text for offset in reader.formula.offsets]
    return _derive(levels, model.design.response, offsets)


@dataclass
class _Node:
    """A coefficient: of which products its equation consists, and which errors stand there."""

    children: dict[Product, _Node] = field(default_factory=dict)
    errors: list[tuple[str, Product]] = field(default_factory=list)
    index: tuple[int, ...] = ()
    name: str = ""


def _derive(levels: Levels, response: str, offsets: list[str]) -> LevelEquations:
    root = _Node(name=response)
    terms = list(dict.fromkeys(levels.terms()))
    ends = {frozenset(term): _walk(root, term, levels, levels.depth) for term in terms}
    for factor in sorted(levels.random_pieces, key=lambda name: levels.number[name]):
        number = levels.number[factor]
        for column in dict.fromkeys(tuple(p.expression for p in pieces) for pieces in levels.random_pieces[factor]):
            node = _walk(root, column, levels, number - 1)
            node.errors.append((factor, tuple(e for e in column if levels.level_of(e) >= number)))
    taken = {response, *levels.homes, *(c for f in levels.groupings for c in f.split(":"))}
    _name(root, 1, levels.depth, taken)
    letters = _error_letters(levels)
    equations = list(_equations(root, letters, taken, 1, levels.depth))
    known = tuple(Effect(1.0, (text,)) for text in offsets)
    equations[0] = Equation(response, (*equations[0].effects, *known, *equations[0].disturbances))
    return LevelEquations(levels, tuple(equations), {term: node.name for term, node in ends.items()})


def _walk(root: _Node, term: Product, levels: Levels, until: int) -> _Node:
    """Return the node of a product after the levels from 1 to `until`, made where it was not there."""
    node = root
    for level in range(1, until + 1):
        product = tuple(e for e in term if levels.level_of(e) == level)
        same = next((known for known in node.children if set(known) == set(product)), product)
        node = node.children.setdefault(same, _Node())
    return node


def _name(node: _Node, level: int, depth: int, taken: set[str]) -> None:
    """Give names to the coefficients of a node's equation: b0, b1; g00, g01; the intercept has 0."""
    letter = "b" if depth == 1 else COEFFICIENTS[min(depth - level, len(COEFFICIENTS) - 1)]
    ordered = sorted(node.children, key=len)[:1] if () in node.children else []
    ordered += [product for product in node.children if product]
    for k, product in enumerate(ordered, start=0 if () in node.children else 1):
        child = node.children[product]
        child.index = (*node.index, k)
        child.name = _free(letter + _digits(child.index), taken)
        _name(child, level + 1, depth, taken)


def _digits(index: tuple[int, ...]) -> str:
    """Return 01 for (0, 1), and 10_1 for (10, 1)."""
    return ("_" if max(index, default=0) > 9 else "").join(map(str, index))


def _free(name: str, taken: set[str]) -> str:
    """Return a name that no column has."""
    while name in taken:
        name += "_"
    return name


def _error_letters(levels: Levels) -> dict[str, str]:
    from_top = sorted(levels.random_pieces, key=lambda name: -levels.number[name])
    return {name: ERRORS[k] if k < len(ERRORS) else f"u{k}_" for k, name in enumerate(from_top)}


def _equations(node: _Node, letters: dict[str, str], taken: set[str], level: int, depth: int) -> Iterator[Equation]:
    children = sorted(node.children.items(), key=lambda item: item[1].index)
    effects = [Effect(child.name, product) for product, child in children]
    errors = []
    for count, (factor, product) in enumerate(node.errors):
        own = [other for other, _ in node.errors[:count]].count(factor)
        name = _free(letters[factor] + _digits(node.index) + (f"_{own + 1}" if own else ""), taken)
        errors.append(Disturbance(name, tuple(factor.split(":")), product))
    yield Equation(node.name, (*effects, *errors))
    if level < depth:
        yield from _below((child for _, child in children), letters, taken, level + 1, depth)


def _below(
    nodes: Iterable[_Node], letters: dict[str, str], taken: set[str], level: int, depth: int
) -> Iterator[Equation]:
    for node in nodes:
        yield from _equations(node, letters, taken, level, depth)
