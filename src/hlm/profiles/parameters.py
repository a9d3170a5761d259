"""The parameters of a fit by name: fixed effects, standard deviations, correlations, σ, those of the level-1 errors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from hlm.design import Factor
from hlm.errors import DataError
from hlm.measures.explained import second_moments, shared
from hlm.variance.linear import Equation, Key, is_determined
from hlm.variance.restrictions import SIGMA2
from hlm.variance.structures import Structure

if TYPE_CHECKING:
    from hlm.fit import Fit

Matrix = npt.NDArray[np.float64]


def _same(value: float) -> float:
    return value


@dataclass(frozen=True)
class Parameter:
    """One parameter of a fit.

    Attributes
    ----------
    name : str
        ``"x"`` for a fixed effect, ``"sd(x | g)"``, ``"cor(x, z | g)"``, ``"sigma"``; ``"sd(g)"``, ``"cor(g)"``,
        ``"rho(g)"`` of a structure with one standard deviation and one correlation; ``"residual.rho"`` of the level-1
        errors; ``"icc(g)"``.
    kind : {"fixed", "sd", "cor", "sigma", "residual", "icc"}
    place : tuple of int
        Column among those kept; or factor and effect or effects; or place among those of the errors; or the factors
        whose variance two rows share.
    estimate : float
        On the scale that is searched, which is that of `natural` but for the level-1 errors.
    low, high : float
        Ends of its range.
    step : float
        A first guess at its standard error.
    free : bool
        Whether it was estimated; else it is known.
    natural : callable
        From the scale that is searched to the parameter's own.
    """

    name: str
    kind: str
    place: tuple[int, ...]
    estimate: float
    low: float
    high: float
    step: float
    free: bool = True
    natural: Callable[[float], float] = _same


def parameters(fit: Fit) -> list[Parameter]:
    """Return the parameters that have a profile: variances, level-1 errors, and by ML the fixed effects."""
    out = variance_parameters(fit)
    return out if fit.reml else out + fixed_parameters(fit)


def fixed_parameters(fit: Fit) -> list[Parameter]:
    """Return the fixed effects that are not aliased."""
    out = []
    for j, (name, value) in enumerate(fit.params.dropna().items()):
        free = bool(fit._problem.coordinates.beta_map[j].any())
        se = float(fit.bse[str(name)])
        out.append(Parameter(str(name), "fixed", (j,), float(value), -np.inf, np.inf, se, free))
    return out


def variance_parameters(fit: Fit) -> list[Parameter]:
    """Return standard deviations and correlations of all terms, σ, and the parameters of the level-1 errors."""
    out = []
    for k, factor in enumerate(fit.model.design.factors):
        for block, structure in zip(factor.blocks, factor.all_structures, strict=True):
            if structure is not None and structure.described_by and len(block) > 1:
                out += _described(fit, k, block, structure)
            else:
                out += _elements(fit, k, block, structure)
    known = is_determined(known_equations(fit), {SIGMA2: 1})
    step = fit.sigma / float(np.sqrt(2 * max(fit.df_resid, 1)))
    out.append(Parameter("sigma", "sigma", (), fit.sigma, 0.0, np.inf, step, not known))
    return out + _of_errors(fit)


def known_equations(fit: Fit) -> list[Equation]:
    """Return what the fit was asked to keep of the variances, in reduced form."""
    asked = fit._problem.restrictions
    return list(asked.variance) if asked is not None else []


def units(fit: Fit, k: int) -> Matrix:
    """Return the standard deviation of each effect of factor k at which a group tells half of it."""
    return np.asarray(fit.sigma * np.sqrt((fit._problem.maps[k] ** 2).sum(axis=1)))


def _sd(fit: Fit, k: int, i: int, name: str, free: bool) -> Parameter:
    factor = fit.model.design.factors[k]
    value = float(np.sqrt(max(fit.covariances[factor.name].to_numpy()[i, i], 0.0)))
    return Parameter(name, "sd", (k, i), value, 0.0, np.inf, 0.3 * max(value, 0.3 * float(units(fit, k)[i])), free)


def _correlation(fit: Fit, k: int, j: int, i: int, name: str, free: bool, low: float = -1.0) -> Parameter:
    T = fit.covariances[fit.model.design.factors[k].name].to_numpy()
    size = float(np.sqrt(max(T[i, i], 0.0) * max(T[j, j], 0.0)))
    value = float(np.clip(T[i, j] / size, low, 1)) if size > 0 else np.nan
    return Parameter(name, "cor", (k, j, i), value, low, 1.0, 0.05, free)


def _elements(fit: Fit, k: int, block: tuple[int, ...], structure: Structure | None) -> list[Parameter]:
    """Standard deviation of each effect of a term, and correlation of each pair."""
    factor, equations = fit.model.design.factors[k], known_equations(fit)
    constant = _constant_correlations(fit, factor, block, structure)
    known = {i: _is_known(equations, k, i, i) for i in block}
    out = [_sd(fit, k, i, f"sd({factor.effects[i]} | {factor.name})", not known[i]) for i in block]
    for a, i in enumerate(block):
        for j in block[:a]:
            name = f"cor({factor.effects[j]}, {factor.effects[i]} | {factor.name})"
            held = _is_known(equations, k, i, j)
            zero = held and fit.covariances[factor.name].iloc[i, j] == 0
            fixed = zero or (held and known[i] and known[j]) or (i, j) in constant
            out.append(_correlation(fit, k, j, i, name, not fixed))
    return out


def _constant_correlations(
    fit: Fit, factor: Factor, block: tuple[int, ...], structure: Structure | None
) -> set[tuple[int, int]]:
    """Pairs whose correlation a user's structure does not change, wherever θ is."""
    if structure is None:
        return set()
    q = len(block)
    spread = np.random.default_rng(0).normal(size=(2, q, q))
    found = []
    for root in spread:
        F = np.asarray(structure.root(structure.start(np.eye(q) + 0.1 * root @ root.T), q))
        sd = np.sqrt(np.maximum((F * F).sum(axis=1), 1e-300))
        found.append(F @ F.T / np.outer(sd, sd))
    same = np.abs(found[0] - found[1]) < 1e-9
    return {(block[a], block[b]) for a in range(q) for b in range(a) if same[a, b]}


def _described(fit: Fit, k: int, block: tuple[int, ...], structure: Structure) -> list[Parameter]:
    """The one standard deviation, and the one correlation, of a structure."""
    factor, equations = fit.model.design.factors[k], known_equations(fit)
    label = factor.name
    if len(factor.blocks) > 1:
        label = f"{', '.join(factor.effects[i] for i in block)} | {factor.name}"
    first, second = block[:2]
    known = any(_is_known(equations, k, i, i) for i in block)
    out = [_sd(fit, k, first, f"{structure.described_by[0]}({label})", not known)]
    if len(structure.described_by) > 1:
        fixed = known and _is_known(equations, k, second, first)
        name, low = f"{structure.described_by[1]}({label})", structure.lowest_correlation(len(block))
        out.append(_correlation(fit, k, first, second, name, not fixed, low))
    return out


def _is_known(equations: list[Equation], k: int, i: int, j: int) -> bool:
    return is_determined(equations, {("T", k, max(i, j), min(i, j)): 1})


def _of_errors(fit: Fit) -> list[Parameter]:
    """Parameters of the structure of the level-1 errors, on scales without bounds."""
    residual = fit._problem.residual
    if residual is None:
        return []
    pattern = residual.pattern
    scaled, errors = pattern.scaled(residual.phi)[0], fit.residual.bse.to_numpy()
    out = []
    for a, (name, value) in enumerate(pattern.natural(residual.phi).items()):

        def natural(value: float, a: int = a) -> float:
            return float(pattern.unscaled(np.where(np.arange(len(scaled)) == a, value, scaled))[a])

        step = float(errors[a]) if errors[a] > 0 else 0.1
        out.append(
            Parameter(f"residual.{name}", "residual", (a,), float(scaled[a]), -np.inf, np.inf, step, True, natural)
        )
    return out


# ---- shares of variance ---------------------------------------------------------------------------------------------


def icc_parameter(fit: Fit, name: str) -> Parameter:
    """Return the intraclass correlation of a grouping factor as a parameter."""
    factors = [factor.name for factor in fit.model.design.factors]
    if name not in factors:
        raise DataError(f"no intraclass correlation of {name!r}; there are the grouping factors {factors}")
    above = shared(fit._problem, factors.index(name))
    value = share_of(fit, shares(fit, above, 0.0), shares(fit, (), -1.0))
    free = not is_determined(known_equations(fit), shares(fit, above, value))
    return Parameter(f"icc({name})", "icc", above, value, 0.0, 1.0, max(0.3 * value * (1 - value), 0.02), free)


def share_of(fit: Fit, own: dict[Key, float], total: dict[Key, float]) -> float:
    """Return the ratio of two combinations of T and σ²; see `shares`."""
    T = [fit.covariances[factor.name].to_numpy() for factor in fit.model.design.factors]

    def size(coefficients: dict[Key, float]) -> float:
        return sum(
            c * (fit.sigma**2 if key == SIGMA2 else float(T[key[1]][key[2], key[3]])) for key, c in coefficients.items()
        )

    return size(own) / size(total)


def shares(fit: Fit, above: tuple[int, ...], value: float) -> dict[Key, float]:
    """Return the coefficients of T and σ² in: mean z'Tz of the factors `above` less value · (that of all, and σ²)."""
    out: dict[Key, float] = {}
    for k, factor in enumerate(fit.model.design.factors):
        moments = second_moments(fit._problem, k)
        for block in factor.blocks:
            for a, i in enumerate(block):
                for j in block[: a + 1]:
                    pair = ("T", k, max(i, j), min(i, j))
                    out[pair] = float(moments[i, j]) * (1 if i == j else 2) * ((k in above) - value)
    return out | {SIGMA2: -value}
