"""General linear hypotheses on the fixed effects, from text, names or matrices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from hlm.covariance import Matrix
from hlm.errors import DataError, DataTypeError
from hlm.inference.distributions import Array, t_pvalue, t_quantile
from hlm.inference.terms import fixed_terms
from hlm.variance.linear import EquationReader, split

if TYPE_CHECKING:
    from hlm.fit import Fit
    from hlm.inference.fixed import Inference

# What a combination may keep of itself outside of the row space of X, relative to its size.
ESTIMABLE = 1e-8
# What rounding leaves of a coefficient that is zero, relative to the largest one of its row.
NOISE = 1e-13
# A product of so many parts is known in each order.
MOST_PARTS = 5


@dataclass(frozen=True, eq=False)
class LinearTest:
    """Test of the linear hypotheses Lγ = r.

    Attributes
    ----------
    statistic : float
        F of all rows together; r rows of which q are independent.
    df_num, df_den : float
        q, and denominator degrees of freedom (infinite: F is a chi-square of q divided by q).
    pvalue : float
    rows : DataFrame
        Each hypothesis by itself: estimate of lγ, hypothesis, standard error, t, df, p.
    L : DataFrame
        (r, p) coefficients.
    title : str
        How it was judged.
    """

    statistic: float
    df_num: float
    df_den: float
    pvalue: float
    rows: pd.DataFrame
    L: pd.DataFrame
    title: str

    def __str__(self) -> str:
        den = "inf" if np.isinf(self.df_den) else f"{self.df_den:.2f}"
        head = f"F({self.df_num:g}, {den}) = {self.statistic:.4g}, p = {self.pvalue:.4g}   ({self.title})"
        return f"{head}\n{self.rows.to_string()}"


def linear_test(view: Inference, hypothesis: Any, values: npt.ArrayLike | None = None) -> LinearTest:
    """Test linear hypotheses.

    Parameters
    ----------
    view : Inference
    hypothesis : str, sequence of str, mapping, DataFrame or (r, p) array
        ``"cses:meanses = 0, sector = 2"``, ``"a = b = c"``; names of coefficients or terms, which are zero then; a
        mapping of names to values; a matrix over all columns of X, or a table over some of them.
    values : (r,) array, optional
        Right-hand sides of a matrix; zero when left out.

    Returns
    -------
    LinearTest

    Raises
    ------
    FormulaError
        If a text cannot be read or names what is not there.
    DataError
        For a matrix of another shape, or a combination that aliased columns leave without an estimate.
    """
    L, right, labels = _read(view.fit, hypothesis, values)
    inside = estimable(view.fit, L, labels)
    engine = inside @ view.map
    estimate = inside @ view.params.dropna().to_numpy()
    se = np.sqrt(view.variances(engine))
    df = view.degrees(engine)
    t = np.divide(estimate - right, se, out=np.full(len(se), np.nan), where=se > 0)
    joint = view.joint(engine, estimate - right)
    columns = {"estimate": estimate, "hypothesis": right, "se": se, "t": t, "df": df, "p": t_pvalue(t, df)}
    return LinearTest(
        joint.statistic,
        joint.df_num,
        joint.df_den,
        joint.pvalue,
        pd.DataFrame(columns, index=labels),
        pd.DataFrame(L, index=labels, columns=list(view.params.index)),
        view.title,
    )


def estimates(view: Inference, L: Matrix, alpha: float, shift: Array | float = 0.0) -> pd.DataFrame:
    """Return estimate, standard error, degrees of freedom and interval of the rows of L (r, p), over all columns.

    Rows that aliased columns leave without an estimate are NaN.
    """
    found = estimable_rows(view.fit, L)
    inside = L[found][:, view.fit._problem.coordinates.kept]
    engine = inside @ view.map
    columns = np.full((3, len(L)), np.nan)
    columns[0, found] = inside @ view.params.dropna().to_numpy()
    columns[1:, found] = np.sqrt(view.variances(engine)), view.degrees(engine)
    estimate, se, df = columns
    estimate += shift
    half = t_quantile(df, alpha) * se
    return pd.DataFrame({"estimate": estimate, "se": se, "df": df, "lower": estimate - half, "upper": estimate + half})


def estimable(fit: Fit, L: Matrix, labels: Sequence[str]) -> Matrix:
    """Return L over the columns that are not aliased.

    Raises
    ------
    DataError
        If a row gives an aliased column another coefficient than those of the columns it is a combination of.
    """
    bad = ~estimable_rows(fit, L)
    if bad.any():
        raise DataError(
            f"'{labels[int(np.argmax(bad))]}' has no estimate: it depends on {', '.join(map(repr, fit.aliased))}, "
            "aliased with other columns"
        )
    return L[:, fit._problem.coordinates.kept]


def estimable_rows(fit: Fit, L: Matrix, tolerance: float = ESTIMABLE) -> npt.NDArray[np.bool_]:
    """Tell which rows of L (r, p) have an estimate in spite of aliased columns, up to a relative `tolerance`."""
    short, size = _shortfall(fit, L)
    return np.asarray((short <= tolerance * size + NOISE).all(axis=1))


def estimable_part(fit: Fit, L: Matrix) -> Matrix:
    """Return combinations (q, p) of the rows of L (r, p), q ≤ r: all those that have an estimate."""
    short, size = _shortfall(fit, L, signed=True)
    if (np.abs(short) <= ESTIMABLE * size + NOISE).all():
        return L
    left, values, _ = np.linalg.svd(short)
    rank = int((values > ESTIMABLE * size.max() + NOISE).sum())
    return np.asarray(left[:, rank:].T @ (L / _row_sizes(fit, L)[:, None]), dtype=np.float64)


def ties(fit: Fit) -> Matrix:
    """(k, a) coefficients with which the k columns that are kept make each of the a aliased ones."""
    kept, X = fit._problem.coordinates.kept, fit.model.design.X
    if kept.all():
        return np.zeros((len(kept), 0))
    size = _column_sizes(X)
    found = np.linalg.lstsq(X[:, kept] / size[kept], X[:, ~kept] / size[~kept], rcond=None)[0]
    found[np.abs(found) < ESTIMABLE] = 0.0
    return np.asarray(found * size[~kept] / size[kept, None], dtype=np.float64)


def _shortfall(fit: Fit, L: Matrix, signed: bool = False) -> tuple[Matrix, Matrix]:
    """(r, a) by how much rows of L miss the coefficients of aliased columns, and the size of what was compared.

    Both are in units of the columns of X and of the rows of L.
    """
    kept = fit._problem.coordinates.kept
    tied = ties(fit)
    unit = _row_sizes(fit, L)[:, None] * _column_sizes(fit.model.design.X[:, ~kept])
    short = (L[:, ~kept] - L[:, kept] @ tied) / unit
    size = (np.abs(L[:, ~kept]) + np.abs(L[:, kept]) @ np.abs(tied)) / unit
    return short if signed else np.abs(short), size


def _column_sizes(X: Matrix) -> Array:
    size = np.abs(X).max(axis=0, initial=0.0)
    return np.where(size > 0, size, 1.0)


def _row_sizes(fit: Fit, L: Matrix) -> Array:
    size = (np.abs(L) / _column_sizes(fit.model.design.X)).max(axis=1, initial=0.0)
    return np.where(size > 0, size, 1.0)


# ---- reading --------------------------------------------------------------------------------------------------------


def _read(fit: Fit, hypothesis: Any, values: Any) -> tuple[Matrix, Array, list[str]]:
    if isinstance(hypothesis, (str, Mapping)) or _texts(hypothesis):
        if values is not None:
            raise DataTypeError("values belong to a matrix; write the right-hand sides into the text")
        if isinstance(hypothesis, Mapping):
            hypothesis = [f"{name} = {value!r}" for name, value in hypothesis.items()]
        return _from_texts(fit, [hypothesis] if isinstance(hypothesis, str) else list(hypothesis))
    names = list(fit.model.design.names)
    if isinstance(hypothesis, pd.DataFrame):
        unknown = [column for column in hypothesis.columns if column not in names]
        if unknown:
            raise DataError(f"no coefficient {unknown[0]!r}; there are {', '.join(names)}", column=str(unknown[0]))
        labels = [str(label) for label in hypothesis.index]
        L = hypothesis.reindex(columns=names, fill_value=0.0).to_numpy(np.float64)
    else:
        try:
            L = np.atleast_2d(np.asarray(hypothesis, dtype=np.float64))
        except (TypeError, ValueError):
            raise DataTypeError(f"a hypothesis is a text, names or a matrix of numbers, got {hypothesis!r}") from None
        labels = [str(i) for i in range(len(L))]
    if L.ndim != 2 or L.shape[1] != len(names) or len(L) == 0:
        raise DataError(
            f"the matrix of a hypothesis must be (r, {len(names)}), one column a coefficient; got {L.shape}"
        )
    right = np.zeros(len(L)) if values is None else np.asarray(values, dtype=np.float64).reshape(-1)
    if right.shape != (len(L),):
        raise DataError(f"values must have {len(L)} entries, got {len(right)}")
    if not (np.isfinite(L).all() and np.isfinite(right).all()):
        raise DataError("the numbers of a hypothesis must be finite")
    return L, right, labels


def _texts(hypothesis: Any) -> bool:
    return (
        isinstance(hypothesis, (list, tuple))
        and len(hypothesis) > 0
        and all(isinstance(part, str) for part in hypothesis)
    )


def _from_texts(fit: Fit, texts: list[str]) -> tuple[Matrix, Array, list[str]]:
    names = list(fit.model.design.names)
    terms = {term.name: [names[c] for c in term.columns] for term in fixed_terms(fit.model)}
    known: dict[str, tuple[str, int]] = {}
    for c, name in enumerate(names):
        for spelling in _spellings(name):
            known.setdefault(spelling, ("beta", c))
    several: dict[str, list[str]] = {}
    for term, own in terms.items():
        for spelling in _spellings(term):
            if len(own) == 1:
                known.setdefault(spelling, known[own[0]])
            elif spelling not in known:
                several[spelling] = own
    reader = EquationReader(known)
    rows, right, labels = [], [], []
    for part in (part for text in texts for part in split(text)):
        for text in _equations(part, several):
            for equation in reader.read(text):
                row = np.zeros(len(names))
                for key, coefficient in equation.coefficients.items():
                    row[key[1]] = float(coefficient)
                rows.append(row)
                right.append(float(equation.right))
                labels.append(text)
    if not rows:
        raise DataError("the hypothesis is empty")
    return np.array(rows), np.array(right), labels


def _equations(part: str, terms: Mapping[str, list[str]]) -> list[str]:
    """The equation that a part of a hypothesis is, or those of each column of a term; without a right side it is 0."""
    first, *others = split(part, "=")
    if not others and "=" in part[part.index(first) + len(first) :]:
        return [part]  # for the reader to complain of
    names = terms.get(first.replace("`", ""))
    if names is None:
        return [part if others else f"{part} = 0"]
    return [" = ".join([name, *(others or ["0"])]) for name in names]


def _spellings(name: str) -> list[str]:
    """Return a product with its parts in every order, as written first."""
    parts = split(name, ":")
    if len(parts) > MOST_PARTS:
        return [name]
    return [name, *(":".join(order) for order in permutations(parts))]
