"""Tests of the terms of the fixed part: tables of type I, II and III, with the hypotheses they test."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from hlm.covariance import Matrix
from hlm.errors import DataError
from hlm.inference.distributions import Joint
from hlm.inference.hypotheses import estimable_part, ties
from hlm.inference.terms import balanced, contains, encoder_of, fixed_terms
from hlm.specification.columns import EncodedTerm

if TYPE_CHECKING:
    from hlm.fit import Fit
    from hlm.inference.fixed import Inference

# What is left of a column beyond others that reproduce it, relative to its size, where some columns are aliased.
ALIASED = 1e-10

STATEMENTS = {
    "I": "type I: each term beyond the terms before it, as the least-squares fit of the rows would attribute it",
    "II": (
        "type II: each term beyond all terms that do not contain it (a term contains another when it has the same "
        "numbers and more categories, polynomials or splines), as the least-squares fit of the rows would attribute it"
    ),
    "III": (
        "type III: equality of means averaged over the categories of the other factors with equal weights, other "
        "numbers at zero; for a number its slope, averaged likewise"
    ),
}


PARTS = "columns are aliased: only that part of each hypothesis which has an estimate is tested (num_df)"


@dataclass(frozen=True, eq=False)
class Anova:
    """Tests of the terms of the fixed part.

    Attributes
    ----------
    kind : {"I", "II", "III"}
    table : DataFrame
        One row a term: sum_sq, mean_sq (σ̂² F before it is scaled), num_df, den_df, F, p.
    hypotheses : dict of str to DataFrame
        Lγ = 0 of each term: (r, p) coefficients.
    statement : str
        What is tested, in words.
    title : str
        How it was judged.
    """

    kind: str
    table: pd.DataFrame
    hypotheses: dict[str, pd.DataFrame]
    statement: str
    title: str

    def __str__(self) -> str:
        return f"{self.table.to_string()}\n{self.statement}\n{self.title}"

    def _repr_html_(self) -> str:
        return f"{self.table.to_html()}<p>{self.statement}</p><p>{self.title}</p>"


def anova(view: Inference, kind: str | int = "III") -> Anova:
    """Test each term of the fixed part.

    Where columns are aliased (empty cells), the part of a hypothesis that has an estimate is tested: `num_df` counts
    it, and is 0 with an F of NaN where nothing is left.

    Parameters
    ----------
    view : Inference
    kind : {"I", "II", "III"} or {1, 2, 3}
        Terms one after the other; each beside those that do not contain it; or means over equal weights. The answer
        says in words what was tested.

    Returns
    -------
    Anova

    Raises
    ------
    DataError
        For another kind.
    """
    kind = {"1": "I", "2": "II", "3": "III"}.get(str(kind), str(kind))
    if kind not in STATEMENTS:
        raise DataError(f"the type of a table must be 'I', 'II' or 'III', got {kind!r}")
    fit = view.fit
    terms = fixed_terms(fit.model)
    names = list(fit.model.design.names)
    rows, tables = [], {}
    estimate = view.params.dropna().to_numpy()
    sigma2 = fit.sigma**2
    for term, L in zip(terms, _hypotheses(fit, terms, kind), strict=True):
        joint = view.joint(L @ view.map, L @ estimate) if len(L) else Joint(np.nan, 0.0, np.nan)
        if len(L):
            tables[term.name] = pd.DataFrame(L, columns=view.kept).reindex(columns=names, fill_value=0.0)
        mean = joint.statistic / joint.scale * sigma2
        rows.append([mean * joint.df_num, mean, joint.df_num, joint.df_den, joint.statistic, joint.pvalue])
    columns = ["sum_sq", "mean_sq", "num_df", "den_df", "F", "p"]
    table = pd.DataFrame(rows, index=pd.Index([term.name for term in terms], name="term"), columns=columns)
    statement = STATEMENTS[kind] + (f"; {PARTS}" if fit.aliased else "")
    return Anova(kind, table, tables, statement, view.title)


def _hypotheses(fit: Fit, terms: list[EncodedTerm], kind: str) -> list[Matrix]:
    """L (r, p) of each term over the columns that are not aliased."""
    kept = fit._problem.coordinates.kept
    full = bool(kept.all())
    # of a term that no other contains type II tests the coefficients themselves, however they are written
    turned = (
        np.eye(len(kept)) if kind == "I" or (kind == "II" and encoder_of(fit.model) is None) else balanced(fit.model)
    )
    owned = {c for term in terms for c in term.columns}
    first = [c for c in range(len(kept)) if c not in owned]  # the intercept
    root = _root(fit)
    spread = np.zeros((len(root), len(kept)))  # the root over all columns
    spread[:, kept] = root
    spread[:, ~kept] = root @ ties(fit)
    out: list[Matrix] = []
    for t, term in enumerate(terms):
        before = terms[:t]
        if kind == "II":
            before = [other for other in terms if other is not term and not contains(fit.model, other, term)]
        if kind == "III" or (kind == "II" and full and len(before) == len(terms) - 1):  # its coefficients themselves
            out.append(estimable_part(fit, turned[list(term.columns)])[:, kept])
            continue
        order = first + [c for other in before for c in other.columns]
        out.append(_beyond(spread[:, order], spread[:, list(term.columns)], root, 0.0 if full else ALIASED))
    return out


def _beyond(before: Matrix, own: Matrix, root: Matrix, least: float) -> Matrix:
    """Combinations (q, k) of the coefficients that the columns `own` estimate beyond the columns `before`.

    Each is the coefficient of a column beyond those in front of it; a column of which these leave no more than `least`,
    relative to its size, has none.
    """
    basis, values, _ = np.linalg.svd(before / _norms(before), full_matrices=False)
    basis = basis[:, values > least]
    rows: list[Matrix] = []
    for column, size in zip((own / _norms(own)).T, _norms(own), strict=True):
        rest = column
        for _ in range(2):  # once more for the digits that the first pass loses
            rest = rest - basis @ (basis.T @ rest)
        left = np.linalg.norm(rest)
        if left > least:
            basis = np.column_stack([basis, rest / left])
            rows.append(rest @ root / (left**2 * size))
    return np.array(rows).reshape(len(rows), root.shape[1])


def _norms(columns: Matrix) -> Matrix:
    size = np.linalg.norm(columns, axis=0)
    return np.where(size > 0, size, 1.0)


def _root(fit: Fit) -> Matrix:
    """R with R'R = X'X over the rows, up to a factor; frequencies count, precision weights do not."""
    coordinates, design = fit._problem.coordinates, fit.model.design
    if design.weights is None and np.ptp(coordinates.beta_map.shape) == 0:  # the engine's columns are orthonormal
        return np.asarray(np.linalg.inv(coordinates.beta_map), dtype=np.float64)
    X = design.X[:, coordinates.kept]
    if design.frequencies is not None:
        X *= np.sqrt(design.frequencies)[:, None]
    return np.asarray(np.linalg.qr(X, mode="r"), dtype=np.float64)
