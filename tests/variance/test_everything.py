"""What a fit offers, for fits with structures, known values, constraints and related levels: an answer, or a reason."""

import inspect
from typing import Any

import numpy as np
import pandas as pd
import pytest

import hlm

RNG = np.random.default_rng(2)
J = 16
CODES = np.repeat(np.arange(J), 8)
N = len(CODES)
DATA = pd.DataFrame({"x": RNG.normal(size=N), "g": CODES, "t": CODES // 4})
SLOPES = RNG.normal(size=(J, 2)) @ np.array([[1.0, 0.3], [0.0, 0.5]])
DATA["y"] = 2 + DATA["x"] + SLOPES[CODES, 0] + DATA["x"] * SLOPES[CODES, 1] + RNG.normal(size=N)
K = 0.5 ** np.abs(np.subtract.outer(np.arange(J), np.arange(J)))

FITS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "cs": ({"covariance": {"g": "cs"}}, {}),
    "ar1": ({"covariance": {"g": "ar1"}}, {}),
    "sigma known": ({}, {"fixed": {"sigma": 1.0}}),
    "a variance known": ({}, {"fixed": {"g": {"x": 0.3}}}),
    "everything known": ({}, {"fixed": {"sigma": 1.0, "g": np.eye(2), "x": 1.0, "Intercept": 2.0}}),
    "tied fixed effects": ({}, {"constraints": "Intercept = 2*x"}),
    "tied variances": ({}, {"constraints": "var(x | g) = 0.5*sigma2"}),
    "sampling variance": ({"sampling_variance": np.full(N, 1.1)}, {}),
    "related": ({"between": {"g": K}}, {}),
}
# what each needs to be called; None: not a reading of one fit
ARGUMENTS: dict[str, Any] = {
    "profile": ("sd(x | g)",),
    "empirical_bayes": ("g",),
    "ols": ("g",),
    "reliabilities": ("g",),
    "residual_table": ("g",),
    "ranks": ("g",),
    "comparisons": ("g",),
    "comparison_intervals": ("g",),
    "score_groups": (DATA.head(8).assign(g=99),),
    "score_stream": None,
    "variance_function": ({"x": 1.0},),
    "within_covariance": ("g", {"x": 1.0}, {"x": 0.0}),
    "least_variance": ("x",),
    "refit": (DATA["y"].to_numpy() + DATA["x"].to_numpy(),),
}


METHODS = ("z", "satterthwaite", "kenward-roger", "between-within", "hlm", "CR0", "CR2")


def _needs(method: Any) -> bool:
    """Whether a method has arguments without a default."""
    parameters = inspect.signature(method).parameters.values()
    return any(p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD for p in parameters)


def fitted(name: str) -> hlm.Fit:
    options, held = FITS[name]
    return hlm.Model("y ~ x + (x | g)", DATA, **options).fit(**held)


@pytest.mark.parametrize("name", FITS)
def test_an_answer_or_a_reason(name: str) -> None:
    fit = fitted(name)
    assert fit.converged
    refused = []
    for attribute in sorted(vars(hlm.Fit)):
        if attribute.startswith("_") or ARGUMENTS.get(attribute, ()) is None:
            continue
        try:
            value = getattr(fit, attribute)
            if inspect.ismethod(value) and attribute in ARGUMENTS:
                value(*ARGUMENTS[attribute])
            elif inspect.ismethod(value) and not _needs(value):
                value()
        except (hlm.DesignError, hlm.DataError):
            refused.append(attribute)
    # everything that does not rest on the free covariance of independent groups has an answer
    assert not {"predict", "random_effects", "information", "trace", "simulate", "refit", "icc", "r_squared"} & set(
        refused
    )


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", FITS)
def test_fixed_effects_are_judged_or_a_reason_given(name: str, method: str) -> None:
    fit = fitted(name)
    # independent clusters there are none with related levels, which are not nested either
    if name == "related" and method in ("between-within", "CR0", "CR2"):
        with pytest.raises((hlm.DesignError, hlm.DataError)):
            fit.inference(method)
        return
    found = fit.inference(method)
    table = found.table()
    known = [effect for effect in fit.params.index if fit.bse[effect] == 0]
    assert (found.bse[known] == 0).all()
    free = found.bse.drop(known)
    assert (free > 0).all()
    assert np.isfinite(table.loc[free.index].to_numpy(dtype=float)).all() or method == "z" or fit.sigma == 1


@pytest.mark.parametrize("method", ["satterthwaite", "kenward-roger"])
def test_degrees_of_freedom_of_a_structure_that_is_none(method: str) -> None:
    plain = (
        hlm.Model("y ~ x + (1 | g)", DATA).fit().inference(method, **({"boundary": "free"} if "-" in method else {}))
    )
    same = hlm.Model("y ~ x + (1 | g)", DATA, covariance={"g": "identity"}).fit().inference(method)
    np.testing.assert_allclose(same.df, plain.df, rtol=1e-6)
    np.testing.assert_allclose(same.bse, plain.bse, rtol=1e-7)


def test_variance_table_of_a_structure_that_is_none() -> None:
    plain = hlm.Model("y ~ x + (1 | g)", DATA).fit().variance_table()
    same = hlm.Model("y ~ x + (1 | g)", DATA, covariance={"g": "identity"}).fit().variance_table()
    np.testing.assert_allclose(
        same[["estimate", "se", "lower", "upper"]], plain[["estimate", "se", "lower", "upper"]], rtol=1e-6
    )
    structured = hlm.Model("y ~ x + (1 | g)", DATA, covariance={"g": "ar1"}).fit()
    pd.testing.assert_frame_equal(structured.icc(), hlm.Model("y ~ x + (1 | g)", DATA).fit().icc(), rtol=1e-6)
    table = fitted("sigma known").variance_table()
    assert table.loc["sigma", ["estimate", "se", "lower", "upper", "note"]].tolist() == [1.0, 0.0, 1.0, 1.0, "known"]


@pytest.mark.parametrize("name", FITS)
def test_a_new_response_keeps_to_what_was_asked(name: str) -> None:
    options, held = FITS[name]
    y = DATA["y"] + 3 * RNG.normal(size=N)
    again = fitted(name).refit(y)
    same = hlm.Model("y ~ x + (x | g)", DATA.assign(y=y), **options).fit(**held)
    assert again.criterion == pytest.approx(same.criterion, abs=1e-8)
    assert again.df_model == same.df_model
    np.testing.assert_allclose(again.params, same.params, rtol=1e-6)
