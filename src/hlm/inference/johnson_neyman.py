"""Johnson-Neyman regions: where along a moderator a slope differs from zero (Johnson and Neyman 1936)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy.optimize import brentq

from hlm.errors import DataError
from hlm.inference.distributions import Array, checked_alpha, t_quantile
from hlm.inference.hypotheses import estimable
from hlm.inference.means import slopes
from hlm.inference.terms import variables_of

if TYPE_CHECKING:
    from hlm.inference.fixed import Inference

# How far beyond the data bounds are looked for, in ranges of the moderator, and at how many points.
REACH = 10.0
POINTS = 401


@dataclass(frozen=True, eq=False)
class JohnsonNeyman:
    """Where a slope differs from zero.

    Attributes
    ----------
    bounds : list of float
        Values of the moderator at which p = alpha, ascending.
    regions : DataFrame
        lower, upper (infinite where no bound was found within ten ranges of the data), sign of the slope where it
        differs from zero and 0 where it does not, and whether some of the data lie there.
    variable, moderator : str
    data : tuple of float
        Least and largest value of the moderator in the data.
    alpha : float
    about : str
        What was averaged and held where.
    title : str
    """

    bounds: list[float]
    regions: pd.DataFrame
    variable: str
    moderator: str
    data: tuple[float, float]
    alpha: float
    about: str
    title: str

    def __str__(self) -> str:
        words = {1.0: "positive", -1.0: "negative", 0.0: "not different from zero"}
        lines = [f"slope in {self.variable} along {self.moderator} (data: {self.data[0]:.4g} to {self.data[1]:.4g})"]
        for lower, upper, sign, seen in self.regions.itertuples(index=False):
            beyond = "" if seen else "; beyond the data"
            lines.append(f"  {lower:10.4g} to {upper:10.4g}: {words[sign]} at level {self.alpha:g}{beyond}")
        return "\n".join([*lines, self.about, self.title])


def johnson_neyman(
    view: Inference,
    variable: str,
    moderator: str,
    at: Mapping[str, Any] | None = None,
    weights: str = "equal",
    alpha: float = 0.05,
) -> JohnsonNeyman:
    """Find the values of a moderator at which the slope in a variable begins or ceases to differ from zero.

    Parameters
    ----------
    view : Inference
        Its degrees of freedom are taken at each value of the moderator.
    variable, moderator : str
        Numbers; the moderator usually varies on a higher level.
    at, weights, alpha
        See `hlm.inference.means.marginal_means`.

    Returns
    -------
    JohnsonNeyman

    Raises
    ------
    DataError
        If the moderator is a category, or aliased columns leave the slope without an estimate.
    """
    alpha = checked_alpha(alpha)
    known = variables_of(view.fit.model).get(moderator)
    if known is not None and known.categories is not None:
        raise DataError(f"'{moderator}' is a category: compare slopes at its levels", column=moderator)

    def margin(values: Array) -> Array:
        """|slope| less what it must exceed."""
        table = slopes(view, variable, [moderator], {**(at or {}), moderator: values}, weights, alpha).table
        return np.asarray(table["estimate"].abs() - t_quantile(table["df"], alpha) * table["se"], dtype=np.float64)

    first = slopes(view, variable, [moderator], at, weights)  # says what is wrong with a name
    if first.table["estimate"].isna().any():
        estimable(view.fit, first.L.to_numpy(), first.labels)  # says which columns are in the way
    assert known is not None
    width = known.most - known.least
    # dense in the data, sparse beyond
    unit = np.tan(np.linspace(-1, 1, POINTS) * np.arctan(2 * REACH)) / 2
    points = (known.least + known.most) / 2 + width * unit
    values = margin(points)
    crossings = np.flatnonzero(np.sign(values[:-1]) * np.sign(values[1:]) < 0)
    bounds = [
        float(brentq(lambda w: margin(np.array([w]))[0], points[i], points[i + 1], xtol=1e-12 * max(width, 1e-300)))
        for i in crossings
    ]
    edges = [-np.inf, *bounds, np.inf]
    inside = np.clip(edges, points[0], points[-1])
    middles = (inside[:-1] + inside[1:]) / 2
    signs = np.where(margin(middles) > 0, 1.0, 0.0)
    found = slopes(view, variable, [moderator], {**(at or {}), moderator: middles}, weights, alpha)
    signs = signs * np.sign(found.table["estimate"].to_numpy())
    regions = pd.DataFrame({"lower": edges[:-1], "upper": edges[1:], "sign": signs})
    regions["data"] = (regions["lower"] < known.most) & (regions["upper"] > known.least)
    data = known.least, known.most
    return JohnsonNeyman(bounds, regions, variable, moderator, data, alpha, found.about, view.title)
