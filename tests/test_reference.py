"""Every model that R fitted, nested or crossed: criterion, parameters, variances, modes, fitted values and predictions.

The criteria in the files are good to about 1e-9, theta to 1e-8 relative (see data/SOURCES.md).
"""

from functools import cache

import numpy as np
import pandas as pd
import pytest

import hlm

from .reference import ReferenceModel, frame, models

criterion_tol = 1e-6  # deviance units: the bound, far below anything that changes a conclusion
value_tol = 1e-5  # relative, on parameters and variances
mode_tol = 1e-4  # of the standard deviation of the effects

pytestmark = pytest.mark.filterwarnings("ignore::hlm.RankDeficientWarning")

every = pytest.mark.parametrize("reference", models(), ids=str)
# EM needs thousands of steps where a variance is nearly zero; these are the regular ones.
REGULAR = [m for m in models() if not m.result["singular"] and m.result["n"] < 500]


@cache
def fit(reference: ReferenceModel) -> hlm.Fit:
    result = reference.result
    return hlm.Model(result["formula"], frame(reference.dataset), weights=result["weights"]).fit(reml=result["reml"])


def factor_of(found: hlm.Fit, group: str) -> tuple[str, bool]:
    """Name of R's factor in hlm, and whether its parts are reversed: (1 | a/b) is "b:a" in R, "a:b" here.

    The second term of a factor is "a.1" in R.
    """
    if group.split(".")[-1].isdigit():
        group = ".".join(group.split(".")[:-1])
    names = list(found.covariances)
    return (group, False) if group in names else (":".join(reversed(group.split(":"))), True)


def decrement_at(found: hlm.Fit, covariances: dict[str, np.ndarray]) -> float:
    """Newton decrement at given T / sigma²: what R's point leaves to gain."""
    problem = found._problem
    criterion = problem.criterion(found.reml)
    inverses = [np.linalg.inv(effect_map) for effect_map in problem.maps]
    D = [inv @ covariances[f.name] @ inv.T for inv, f in zip(inverses, problem.design.factors, strict=True)]
    criterion.value(problem.template.theta_of_covariances(D))
    gradient, hessian = criterion.derivatives()
    return float(0.5 * gradient @ np.linalg.solve(hessian, gradient))


@every
def test_criterion_and_information_criteria(reference: ReferenceModel) -> None:
    result, found = reference.result, fit(reference)
    assert found.nobs == result["n"]
    assert found.converged, found.certificate
    assert found.is_singular == result["singular"]
    # R's optimum may be the worse one; ours must not be
    assert found.criterion <= result["criterion"] + criterion_tol
    assert found.criterion == pytest.approx(result["criterion"], abs=criterion_tol)
    assert found.df_model == result["df"]
    for name in ("AIC", "BIC", "logLik"):
        assert getattr(found, {"AIC": "aic", "BIC": "bic", "logLik": "llf"}[name]) == pytest.approx(
            result[name], abs=2e-6
        )


@every
def test_fixed_effects(reference: ReferenceModel) -> None:
    result, found = reference.result, fit(reference)
    estimates = found.params.dropna().to_numpy()
    expected = np.array(result["fixef"]["values"])
    se = np.sqrt(np.diag(np.array(result["vcov"])))
    assert len(found.aliased) == len(result["dropped"])
    # relative to the estimate, or to its standard error where it is near zero
    assert (np.abs(estimates - expected) <= value_tol * np.maximum(np.abs(expected), se)).all()
    vcov = np.array(result["vcov"])
    np.testing.assert_allclose(found.cov_params(), vcov, rtol=value_tol, atol=value_tol * np.outer(se, se).max())
    np.testing.assert_allclose(found.bse.dropna(), se, rtol=value_tol)


@every
def test_variances(reference: ReferenceModel) -> None:
    result, found = reference.result, fit(reference)
    assert found.sigma == pytest.approx(result["sigma"], rel=value_tol)
    expected = {name: np.zeros(T.shape) for name, T in found.covariances.items()}
    filled = dict.fromkeys(expected, 0)
    for group, table in result["varcorr"].items():
        name, _ = factor_of(found, group)
        start, q = filled[name], len(table["effects"])
        filled[name] = start + q
        expected[name][start : start + q, start : start + q] = table["covariance"]
    for name, want in expected.items():
        sd = np.sqrt(np.diag(want))
        # covariances relative to the product of the standard deviations; near a boundary relative to sigma's
        scale = np.maximum(np.outer(sd, sd), 1e-3 * result["sigma"] ** 2 if result["singular"] else 0.0)
        if (np.abs(found.covariances[name] - want) <= 2 * value_tol * scale).to_numpy().all():
            continue
        # else R's point must be shown to be the worse one
        left = decrement_at(found, {name: T / result["sigma"] ** 2 for name, T in expected.items()})
        assert found.certificate.decrement < 1e-14 < 1e-11 < left
        np.testing.assert_allclose(found.covariances[name], want, rtol=1e-3)


@every
def test_conditional_modes_and_covariances(reference: ReferenceModel) -> None:
    result, found = reference.result, fit(reference)
    known = found.conditional_covariances(beta_known=True)
    for group, table in result["ranef"].items():
        name, turned = factor_of(found, group)
        own = found.random_effects[name]
        labels = [label.split(":") for label in table["levels"]]
        if own.index.nlevels == 1:
            places = own.index.get_indexer(pd.Index([":".join(parts) for parts in labels]))
        else:
            places = own.index.get_indexer(
                pd.MultiIndex.from_tuples([tuple(reversed(p) if turned else p) for p in labels])
            )
        assert (places >= 0).all()
        modes, expected = own.to_numpy()[places], np.array(table["mode"])
        sd = np.sqrt(np.maximum(np.diag(found.covariances[name]), 1e-12))
        assert (np.abs(modes - expected) <= mode_tol * np.maximum(sd, np.abs(expected))).all()
        covariances = np.array(table["conditional_covariance"])
        scale = np.maximum(np.sqrt(np.einsum("lii,ljj->lij", covariances, covariances)), 1e-6 * result["sigma"] ** 2)
        assert (np.abs(known[name][places] - covariances) <= 10 * value_tol * scale).all()


@every
def test_rows_and_predictions(reference: ReferenceModel) -> None:
    result, found = reference.result, fit(reference)
    rows = result["rows"]
    place = np.array(rows["index0"])
    tolerance = mode_tol * result["sigma"]
    np.testing.assert_allclose(found.fittedvalues.to_numpy()[place], rows["fitted"], rtol=value_tol, atol=tolerance)
    np.testing.assert_allclose(found.resid.to_numpy()[place], rows["residual"], rtol=value_tol, atol=tolerance)
    predicted = result.get("predict") or {}
    if "population" not in predicted:
        return
    new = pd.DataFrame(predicted["new_rows"])
    at = {"rtol": value_tol, "atol": tolerance}
    np.testing.assert_allclose(found.predict(new, effects="population"), predicted["population"], **at)
    np.testing.assert_allclose(found.predict(new), predicted["known_groups"], **at)
    if "unknown_groups" in predicted:
        unknown = pd.DataFrame(predicted["new_rows_unknown"])
        np.testing.assert_allclose(found.predict(unknown, new_levels="population"), predicted["unknown_groups"], **at)
        with pytest.raises(hlm.DataError, match="was not in the fit"):
            found.predict(unknown)


@pytest.mark.parametrize("method", ["fisher", "em", "ecme"])
@pytest.mark.parametrize("reference", REGULAR, ids=str)
def test_other_methods_reach_the_same_optimum(reference: ReferenceModel, method: str) -> None:
    result = reference.result
    model = hlm.Model(result["formula"], frame(reference.dataset), weights=result["weights"])
    other = model.fit(reml=result["reml"], method=method, accelerate=method == "em")
    assert other.criterion == pytest.approx(fit(reference).criterion, abs=criterion_tol)
