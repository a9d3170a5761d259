"""Empirical Bayes for groups that the fit has not seen, from their own rows: γ̂, T and σ² stay as they are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from hlm.design import Column, code_column
from hlm.empirical_bayes.chain import chain_roots, congruence, spread, walk
from hlm.errors import DataError, DesignError, show
from hlm.frames import to_frame
from hlm.prediction import fixed_part
from hlm.residuals.refusals import independent_errors
from hlm.structure import Codes, Hierarchy, cross_codes, find_hierarchy
from hlm.weights import SAMPLING, read_weights
from hlm_ext.columns import Columns
from hlm_ext.gather import gather

if TYPE_CHECKING:
    from hlm.design import Factor
    from hlm.fit import Fit

Array = npt.NDArray[np.float64]

SEEN = ("error", "new")
# Groups of the lowest level that are worked on together: what there is of them fits into the cache.
PORTION = 8192


@dataclass(frozen=True, eq=False)
class NewGroups:
    """Empirical Bayes estimates of groups that the fit has not seen.

    Attributes
    ----------
    effects : (J, q) DataFrame
        û, the conditional means given the groups' own rows.
    cov : (J, q, q) float64
        Cov(u - û), the uncertainty of γ̂ included.
    n : (J,) Series
        Rows that were used. A group without any has û = 0 and the covariance T.
    """

    effects: pd.DataFrame
    cov: Array = field(repr=False)
    n: pd.Series

    @property
    def bse(self) -> pd.DataFrame:
        """Standard errors of û, (J, q)."""
        size = np.sqrt(np.diagonal(self.cov, axis1=1, axis2=2))
        return pd.DataFrame(size, index=self.effects.index, columns=self.effects.columns)


@dataclass(frozen=True, eq=False)
class _Rows:
    """New rows in arrays: residual from the fixed part, columns of X, and what each factor has."""

    residual: Column
    fixed: list[Column]
    random: list[list[Column]]
    labels: list[pd.Index]
    codes: list[Codes]
    weights: Column | None


def score_groups(fit: Fit, new: Any, weights: Any = None, seen: str = "error") -> dict[str, NewGroups]:
    """Estimate the effects of new groups from their own rows, without refitting.

    Parameters
    ----------
    fit : Fit
        Of a nested hierarchy.
    new : DataFrame, mapping or (y, X, list of Random)
        Rows of the new groups with the response; all rows of a group. Rows in which a used column is missing count for
        nothing.
    weights : str or (n,) array, optional
        What the fit was given of its rows: precision weights (ones when left out), or sampling variances.
    seen : {"error", "new"}
        What a label means that the fit knows: a mistake, or a new group that happens to have the same label.

    Returns
    -------
    dict of NewGroups
        Keyed by grouping factor. With û = D Z'V⁻¹(y - Xγ̂) and Cov(u - û) = Cov(u | y, γ) + G Cov(γ̂) G', G = D Z'V⁻¹X:
        the rows are not those of the fit, so the errors of γ̂ and of û given γ are independent.

    Raises
    ------
    DesignError
        If the model has no random effects, factors are crossed, or groups that are nested in the fit are not in `new`.
    DataError
        For a label that the fit knows, naming it.
    """
    independent_errors(fit, "empirical Bayes of new groups")
    if seen not in SEEN:
        raise DataError(f"seen must be 'error' or 'new', got {seen!r}")
    factors = _ordered(fit)
    rows, used = _complete(_read(fit, factors, new, weights, seen))
    hierarchy = find_hierarchy(
        rows.codes, [len(labels) for labels in rows.labels], [f.width for f in factors], len(rows.residual)
    )
    if hierarchy.factors != tuple(range(len(factors))) or not hierarchy.is_nested:
        names = " in ".join(f"'{factor.name}'" for factor in factors)
        raise DesignError(f"groups of the new rows must be nested as in the fit: {names}", column=factors[0].name)
    moments = _moments(fit, _blocks(fit, rows, hierarchy), hierarchy)
    out = {}
    for k, (factor, (effects, cov)) in enumerate(zip(factors, moments, strict=True)):
        counts = np.bincount(rows.codes[k][used], minlength=len(rows.labels[k]))
        out[factor.name] = NewGroups(
            pd.DataFrame(effects, index=rows.labels[k], columns=list(factor.effects)),
            cov,
            pd.Series(counts, index=rows.labels[k], name="n"),
        )
    return {factor.name: out[factor.name] for factor in fit.model.design.factors}


def score_stream(fit: Fit, chunks: Iterable[Any], seen: str = "error") -> Iterator[dict[str, NewGroups]]:
    """Estimate the effects of new groups chunk by chunk: memory for one chunk, however many there are.

    Parameters
    ----------
    fit : Fit
    chunks : iterable of tables
        As `score_groups` takes them; each top-level group lies within one chunk.
    seen : {"error", "new"}
        See `score_groups`.

    Yields
    ------
    dict of NewGroups
        One for each chunk.

    Raises
    ------
    DataError
        Also for a group whose rows are spread over several chunks, naming it.
    """
    top = _ordered(fit)[-1].name
    known: set[Any] = set()
    for chunk in chunks:
        found = score_groups(fit, chunk, seen=seen)
        labels = found[top].effects.index.tolist()
        if not known.isdisjoint(labels):
            label = next(label for label in labels if label in known)
            raise DataError(
                f"{top} = {show(label)} has rows in several chunks; all rows of a group must be in one",
                column=top,
                group=label,
            )
        known.update(labels)
        yield found


def _ordered(fit: Fit) -> list[Factor]:
    """Factors of the fit, leaves first."""
    hierarchy = fit._problem.statistics.hierarchy
    factors = fit._problem.ordered
    if not factors:
        raise DesignError("the model has no random effects: there is nothing to estimate for a new group")
    fit.model.design.must_be_independent("the estimate of new groups")
    if not hierarchy.is_nested:
        raise DesignError(
            "factors are crossed: rows of a new group share effects of levels that the fit knows and does not know "
            "exactly; this is for nested hierarchies",
            column=factors[0].name,
        )
    return factors


def _read(fit: Fit, factors: list[Factor], new: Any, weights: Any, seen: str) -> _Rows:
    model = fit.model
    y = model.new_response(new)
    if model.formula is None:
        new = new[1:]
    fixed, offsets, _ = model.new_rows(new)
    residual = y - fixed_part(fit, fixed, len(y))
    for offset in offsets:
        residual -= offset
    random, labels, codes = [], [], []
    for factor in factors:
        levels, columns, given = model.new_groups(new, factor)
        if seen == "error" and (levels >= 0).any():
            row = int(np.argmax(levels >= 0))
            raise DataError(
                f"{factor.name} = {show(given[row])} (row {row}) was in the fit: its effects are in random_effects; "
                "seen='new' takes it for another group of the same label",
                column=factor.name,
                group=given[row],
                row=row,
            )
        own, index = _code(given, factor)
        if len(own) and own.min() < 0:
            row = int(np.argmin(own))
            raise DataError(f"label of '{factor.name}' is missing in row {row}", column=factor.name, row=row)
        random.append(columns)
        labels.append(index)
        codes.append(own)
    return _Rows(residual, fixed, random, labels, codes, _weights(fit, new, weights, len(y)))


def _weights(fit: Fit, new: Any, weights: Any, n: int) -> Column | None:
    design = fit.model.design
    kind = "weights" if design.sigma is None else SAMPLING
    if weights is None and design.weights is not None:
        raise DataError(f"the fit has {kind}: say those of the new rows, weights='column' or an array", column=kind)
    frame = to_frame(new, [weights], new=True) if isinstance(weights, str) else None
    return read_weights({kind: weights}, n, frame).take(None).get("weights")


def _code(labels: Any, factor: Factor) -> tuple[Codes, pd.Index]:
    if isinstance(labels, pd.MultiIndex):
        parts = [(np.asarray(c, dtype=np.intp), level) for c, level in zip(labels.codes, labels.levels, strict=True)]
        if any((codes < 0).any() for codes, _ in parts):
            return np.where(np.any([codes < 0 for codes, _ in parts], axis=0), -1, 0), labels
        return cross_codes(parts, list(factor.labels.names))
    codes, index = code_column(labels.values if isinstance(labels, pd.Index) else labels, factor.name)
    return codes, index.rename(factor.labels.name)


def _complete(rows: _Rows) -> tuple[_Rows, npt.NDArray[np.bool_]]:
    """Return the rows with zeros in place of those in which a value is missing, and which ones were complete."""
    every = [rows.residual, *(column for columns in rows.random for column in columns)]
    if any(np.isinf(column).any() for column in every):
        raise DataError("new rows hold infinite values")
    missing = np.isnan(rows.residual)
    for column in every[1:]:
        missing |= np.isnan(column)
    if not missing.any():
        return rows, ~missing

    def zeros(column: Column) -> Column:
        return np.where(missing, 0.0, column)

    random = [[zeros(column) for column in columns] for columns in rows.random]
    fixed = [zeros(column) for column in rows.fixed]
    return replace(rows, residual=zeros(rows.residual), fixed=fixed, random=random), ~missing


def _blocks(fit: Fit, rows: _Rows, hierarchy: Hierarchy) -> list[Array]:
    """Z_k'W[Z_k, Z_k+1, …, X, residual] of each level, Z in the engine's coordinates."""
    problem = fit._problem
    columns: list[Column] = []
    widths = []
    for k, Z in zip(problem.template.order, rows.random, strict=True):
        M = problem.maps[k]
        columns += [np.sum([z * m for z, m in zip(Z, M[:, i], strict=True) if m], axis=0) for i in range(len(M))]
        widths.append(len(M))
    q = len(columns)
    columns += [column for column, kept in zip(rows.fixed, problem.coordinates.kept, strict=True) if kept]
    columns.append(rows.residual)
    shift, factor = np.zeros(len(columns)), np.ones(len(columns))
    _, products = gather(
        Columns(columns), hierarchy.rows, hierarchy.first, shift, factor, np.arange(q, dtype=np.intp), rows.weights
    )
    blocks, at = [], 0
    for k, width in enumerate(widths):
        if k:
            products = np.add.reduceat(products, hierarchy.children[k - 1][:-1], axis=0)
        blocks.append(products[:, at : at + width, at : len(columns)])
        at += width
    return blocks


def _moments(fit: Fit, blocks: list[Array], hierarchy: Hierarchy) -> list[tuple[Array, Array]]:
    """û (J, q) and Cov(u - û) (J, q, q) of the groups of each factor, leaves first, in the user's units."""
    problem = fit._problem
    order = problem.template.order
    maps = [problem.maps[k] for k in order]
    roots = chain_roots(fit)
    with fit._lock:
        sigma2, inverse = fit._criterion.sigma2, fit._criterion.cross_inverse
    # Cov(γ̂) = F F', X in the user's units
    F = problem.coordinates.beta_map @ np.linalg.cholesky(sigma2 * inverse)
    out = [(np.empty(block.shape[:2]), np.empty((len(block), *M.shape))) for block, M in zip(blocks, maps, strict=True)]
    for parts, children in _portions(blocks, hierarchy.children):
        stages = walk([block[part] for block, part in zip(blocks, parts, strict=True)], children, roots)
        for k, (stage, M) in enumerate(zip(stages, maps, strict=True)):
            groups = hierarchy.levels[k][parts[k]]
            E = np.ascontiguousarray(stage.effects[:, :, :-1])
            EF = (E.reshape(-1, len(F)) @ F).reshape(*E.shape[:2], F.shape[1])
            out[k][0][groups] = stage.effects[:, :, -1] @ M.T
            out[k][1][groups] = congruence(fit.sigma**2 * spread(stages, k) + EF @ EF.transpose(0, 2, 1), M.T)
    return out


def _portions(blocks: list[Array], children: Sequence[Codes]) -> Iterator[tuple[list[slice], list[Codes]]]:
    """Split the forest between top units: the groups of each level, and the offsets of their children."""
    tops = len(blocks[-1])
    step = max(1, tops * PORTION // len(blocks[0]))
    for first in range(0, tops, step):
        parts = [slice(first, min(first + step, tops))]
        offsets: list[Codes] = []
        for of in reversed(children):
            own = of[parts[0].start : parts[0].stop + 1]
            offsets.insert(0, own - own[0])
            parts.insert(0, slice(int(own[0]), int(own[-1])))
        yield parts, offsets
