"""Errors that are correlated and whose variances differ, in continuous time, and below nested factors: against nlme.

The values are those of ``data/error_structures.json``.
"""

import json
from typing import Any

import numpy as np
import pytest

import hlm
from hlm.residuals import AR1, ByStratum, CompoundSymmetry, LogLinear, Residual, Unstructured

from ..reference import DATA, frame
from .dense import structured

NLME = json.loads((DATA / "error_structures.json").read_text(encoding="utf-8"))["models"]

GROWTH = "distance ~ age * Sex"
CYCLE = "follicles ~ sin(2 * pi * Time) + cos(2 * pi * Time)"
RATE = "rate ~ (pressure + I(pressure**2) + I(pressure**3) + I(pressure**4)) * QB"
MODELS: dict[str, tuple[str, Residual]] = {
    "Orthodont:ar1": (GROWTH + " + (1 | Subject)", AR1()),
    "Orthodont:ar1*sex": (GROWTH + " + (1 | Subject)", AR1(variance=ByStratum("Sex"))),
    "Orthodont:ar1*age": (GROWTH, AR1(group="Subject", variance=ByStratum("age"))),
    "Orthodont:cs*age": (GROWTH, CompoundSymmetry("Subject", variance=ByStratum("age"))),
    "Ovary:car1": (CYCLE + " + (1 | Mare)", AR1("Time")),
    "Ovary:ar1*exp": (CYCLE + " + (1 | Mare)", AR1(variance=LogLinear("~ Time"))),
    "BodyWeight:power": ("weight ~ Time * Diet + (Time | Rat)", LogLinear("~ log(Time)")),
    "BodyWeight:exp": ("weight ~ Time * Diet + (Time | Rat)", AR1("Time")),
    "BodyWeight:exp*power": ("weight ~ Time * Diet + (Time | Rat)", AR1("Time", variance=LogLinear("~ log(Time)"))),
    "Dialyzer:ar1*power": (RATE, AR1(group="Subject", variance=LogLinear("~ log(pressure)"))),
    "Dialyzer:ar1*power_ri": (RATE + " + (1 | Subject)", AR1(variance=LogLinear("~ log(pressure)"))),
    "Alfalfa:date": ("Yield ~ Date * Variety + (1 | Block/Variety)", ByStratum("Date")),
    "Alfalfa:ar1*date": ("Yield ~ Date * Variety + (1 | Block/Variety)", AR1(variance=ByStratum("Date"))),
}


def model(id: str) -> hlm.Model:
    formula, residual = MODELS[id]
    data = frame(id.split(":")[0])
    if "age" in id:
        data["age"] = data["age"].astype(int)
    return hlm.Model(formula, data, residual=residual)


def natural(result: dict[str, Any], fit: hlm.Fit) -> tuple[np.ndarray, float]:
    """nlme's correlation and variance parameters in the terms of `Fit.residual.params`, and sigma of the same rows."""
    values: list[float] = []
    sigma = result["sigma"]
    if result["correlation"] is not None:
        exponential = "exp" in result["id"] and "Ovary" not in result["id"]
        values.append(np.exp(-1 / result["correlation"]) if exponential else result["correlation"])
    weights = result["weights"]
    if weights is None:
        return np.array(values), sigma
    weights = np.atleast_1d(weights)
    if result["strata"]:
        # ratios to the first stratum here, which may be another one there
        labels = [str(label) for label in fit.residual.sd.index]
        sd = dict(zip(np.atleast_1d(result["strata"]), weights, strict=True))
        ratios = np.array([sd.get(label, 1.0) for label in labels])
        return np.array([*values, *(ratios[1:] / ratios[0])]), sigma * ratios[0]
    data = frame(result["id"].split(":")[0])
    column = {"Ovary": "Time", "BodyWeight": "Time", "Dialyzer": "pressure"}[result["id"].split(":")[0]]
    x = data[column] if "Ovary" in result["id"] else np.log(data[column])
    return np.array([*values, *(2 * weights)]), sigma * float(np.exp(weights[0] * x.mean()))


@pytest.mark.parametrize("result", NLME, ids=lambda m: m["id"])
def test_nlme(result: dict[str, Any]) -> None:
    fit = model(result["id"].rsplit(".", 1)[0]).fit(reml=result["reml"])
    assert fit.converged
    assert fit.df_model == result["df"]
    # both are at the optimum up to what nlme's optimiser leaves: some 1e-9 of the criterion, 1e-5 of parameters
    assert fit.criterion == pytest.approx(result["criterion"], abs=1e-8)
    params, sigma = natural(result, fit)
    np.testing.assert_allclose(fit.residual.params, params, rtol=2e-5)
    assert fit.sigma == pytest.approx(sigma, rel=1e-5)
    np.testing.assert_allclose(fit.params, result["fixef"], rtol=1e-5, atol=1e-10)
    # gls has n - p in the covariance of its coefficients by ML too
    gls = not fit.model.design.factors and not result["reml"]
    se = np.array(result["se"]) * np.sqrt(1 - len(fit.params) / fit.nobs if gls else 1.0)
    np.testing.assert_allclose(fit.bse, se, rtol=1e-5)


@pytest.mark.parametrize("id", ["Orthodont:ar1*age", "Ovary:ar1*exp", "Alfalfa:ar1*date"])
@pytest.mark.parametrize("method", ["em", "ecme"])
def test_em_finds_the_same(id: str, method: str) -> None:
    best = model(id).fit()
    fit = model(id).fit(method=method, accelerate=True)
    assert (np.diff(fit.trace["criterion"]) <= 1e-12 * abs(fit.criterion)).all()
    assert fit.criterion == pytest.approx(best.criterion, abs=1e-6)


def test_a_variance_for_each_occasion() -> None:
    """AR(1) between two occasions with a variance each is any covariance of the two."""
    data = frame("Orthodont")
    two = data[data["age"] < 11]
    any_ = hlm.Model("distance ~ age * Sex", two, residual=Unstructured("age", group="Subject")).fit()
    for residual in (
        AR1("age", "Subject", ByStratum("age")),
        AR1(group="Subject", variance=ByStratum("age")),
        CompoundSymmetry("Subject", ByStratum("age")),
    ):
        fit = hlm.Model("distance ~ age * Sex", two, residual=residual).fit()
        assert fit.criterion == pytest.approx(any_.criterion, abs=1e-9)
        np.testing.assert_allclose(fit.residual.sd, any_.residual.sd, rtol=1e-6)
        np.testing.assert_allclose(fit.cov_params(), any_.cov_params(), rtol=1e-6, atol=1e-12)


def test_table_and_words() -> None:
    fit = model("Orthodont:ar1*sex").fit()
    table = fit.residual.table()
    assert list(table.index) == ["rho", "sd(Male) / sd(Female)"]
    assert list(table["scale"]) == ["atanh", "log"]
    assert "AR(1) in groups, a variance for each of the 2 strata of 'Sex'" in str(fit)
    assert fit.residual.homogeneity.df == 2
    sex = frame("Orthodont")["Sex"]
    np.testing.assert_allclose(fit.residual_table()["sigma"], fit.residual.sd.loc[sex].to_numpy(), rtol=1e-12)


def test_variances_must_be_a_structure_of_variances() -> None:
    wrong: Any = AR1()
    for residual in (AR1(variance=wrong), CompoundSymmetry("Sex", variance=wrong)):
        with pytest.raises(hlm.DataTypeError, match=r"variance must be hlm\.residuals\.ByStratum or LogLinear"):
            hlm.Model("distance ~ age + (1 | Subject)", frame("Orthodont"), residual=residual)


def test_missing_values_of_either_column_drop_their_rows() -> None:
    data = frame("Orthodont")
    data.loc[3, "Sex"], data.loc[10, "age"] = None, np.nan
    fit = hlm.Model("distance ~ 1 + (1 | Subject)", data, residual=AR1("age", variance=ByStratum("Sex"))).fit()
    assert fit.nobs == len(data) - 2


def test_a_correlation_that_goes_to_its_end() -> None:
    """Groups of three whose scaled sums the model reproduces: as ρ goes to -1/2 the criterion falls without end."""
    s = structured("cs*strata", [1, 1], seed=18)
    with pytest.raises(hlm.DegenerateError, match="becomes singular"):
        s.model().fit()
