"""What groups say by themselves, reliabilities, coefficients and their covariances, against dense algebra."""

import numpy as np
import pandas as pd
import pytest

import hlm
from hlm.empirical_bayes.chain import level
from hlm.empirical_bayes.coefficients import theta_sensitivity

from ..dense import STRUCTURES, Case, make_case, structure

NESTED = ["intercept", "slope", "three columns", "two nested", "three nested", "four nested"]


def fitted(name: str, reml: bool = True) -> tuple[Case, hlm.Fit]:
    case = make_case(STRUCTURES[name][0], STRUCTURES[name][1], seed=3, tops=25, most=4)
    return case, case.model().fit(reml=reml)


def crossed_fit(name: str) -> tuple[Case, hlm.Fit]:
    case = structure(name, seed=2)
    return case, case.model().fit()


class Dense:
    """The fit's model at its θ̂ and σ̂², n × n."""

    def __init__(self, case: Case, theta: np.ndarray) -> None:
        self.case = case
        self.D = [L @ L.T for L in case.factors(theta)]
        self.wide = []
        for Z, codes in zip(case.Z, case.codes, strict=True):
            J, q = codes.max() + 1, Z.shape[1]
            full = np.zeros((len(case.y), J * q))
            for c in range(J):
                full[codes == c, c * q : (c + 1) * q] = Z[codes == c]
            self.wide.append(full)
        self.V = case.covariance(theta)
        inverse = np.linalg.inv(self.V)
        self.B = np.linalg.solve(case.X.T @ inverse @ case.X, case.X.T @ inverse)
        self.P = inverse @ (np.eye(len(case.y)) - case.X @ self.B)
        self.beta = self.B @ case.y

    def gain(self, k: int) -> np.ndarray:
        """û of factor k = gain @ y."""
        J = self.case.codes[k].max() + 1
        return np.kron(np.eye(J), self.D[k]) @ self.wide[k].T @ self.P

    def below(self, k: int) -> np.ndarray:
        """Covariance of what varies below factor k."""
        V = np.eye(len(self.case.y))
        for m in range(k):
            J = self.case.codes[m].max() + 1
            V += self.wide[m] @ np.kron(np.eye(J), self.D[m]) @ self.wide[m].T
        return V

    def left(self, k: int) -> np.ndarray:
        """y less the fixed part and the effects above factor k."""
        y = self.case.y - self.case.X @ self.beta
        for m in range(k + 1, len(self.wide)):
            y = y - self.wide[m] @ (self.gain(m) @ self.case.y)
        return y


@pytest.mark.parametrize("name", NESTED)
def test_own_estimate_reliability_and_distance(name: str) -> None:
    case, fit = fitted(name)
    dense, sigma2 = Dense(case, fit.theta.to_numpy()), fit.sigma**2
    for k, Z in enumerate(case.Z):
        q, codes = Z.shape[1], case.codes[k]
        T = sigma2 * dense.D[k]
        own, V, left = level(fit, f"f{k}"), dense.below(k), dense.left(k)
        hlm_kind, shrinkage = fit.reliabilities(f"f{k}"), fit.reliabilities(f"f{k}", "shrinkage")
        for j in range(codes.max() + 1):
            rows = codes == j
            inverse = np.linalg.inv(V[np.ix_(rows, rows)])
            A = Z[rows].T @ inverse @ Z[rows]
            t = Z[rows].T @ inverse @ left[rows]
            # the rest of an effect that is known to be as good as its own estimate
            np.testing.assert_allclose(
                own.shrinkage[j], dense.D[k] @ A @ np.linalg.inv(np.eye(q) + dense.D[k] @ A), rtol=1e-6, atol=1e-8
            )
            np.testing.assert_allclose(shrinkage.iloc[j], np.diag(own.shrinkage[j]), rtol=1e-12)
            full = np.linalg.matrix_rank(Z[rows]) == q
            assert own.rank[j] == np.linalg.matrix_rank(Z[rows])
            spread = np.linalg.pinv(A + A @ dense.D[k] @ A, rcond=1e-11, hermitian=True)
            assert own.distance[j] == pytest.approx(t @ spread @ t / sigma2, rel=1e-5, abs=1e-9)
            if not full:
                assert np.isnan(own.own[j]).all()
                assert np.isnan(hlm_kind.iloc[j]).all()
                continue
            estimate, cov = np.linalg.solve(A, t), sigma2 * np.linalg.inv(A)
            np.testing.assert_allclose(own.own[j], estimate, rtol=1e-5, atol=1e-7)
            np.testing.assert_allclose(own.own_cov[j], cov, rtol=1e-6, atol=1e-9)
            np.testing.assert_allclose(hlm_kind.iloc[j], np.diag(T) / (np.diag(T) + np.diag(cov)), rtol=1e-6)
            # û is the own estimate, shrunken, and the distance is that of its covariance T + V
            np.testing.assert_allclose(
                fit.random_effects[f"f{k}"].iloc[j], own.shrinkage[j] @ own.own[j], rtol=1e-5, atol=1e-7
            )
            assert own.distance[j] == pytest.approx(estimate @ np.linalg.solve(T + cov, estimate), rel=1e-5)


@pytest.mark.parametrize("name", [*NESTED, "two crossed", "crossed slopes", "two nested, one across"])
def test_coefficients_and_their_covariance(name: str) -> None:
    case, fit = fitted(name) if name in NESTED else crossed_fit(name)
    dense, sigma2 = Dense(case, fit.theta.to_numpy()), fit.sigma**2
    fixed = [f"x{j}" if j else "Intercept" for j in range(case.X.shape[1])]
    for k, Z in enumerate(case.Z):
        q, J = Z.shape[1], case.codes[k].max() + 1
        got = fit.empirical_bayes(f"f{k}")
        effects = ["Intercept", *(f"z{j}" for j in range(1, q))]
        assert list(got.estimates.columns) == effects + fixed[1:]
        gain, D = dense.gain(k), np.kron(np.eye(J), dense.D[k])
        # errors of γ̂ and û are linear in the effects and the residual: B(y - Xγ) and gain (y - Xγ) - u
        for j in range(J):
            at = slice(j * q, (j + 1) * q)
            spread = gain[at] @ dense.V @ gain[at].T - gain[at] @ dense.wide[k] @ D[:, at]
            spread = spread - (D[at] @ dense.wide[k].T @ gain[at].T) + D[at, at]
            cross = dense.B @ dense.V @ gain[at].T - dense.B @ dense.wide[k] @ D[:, at]
            Zj = np.zeros((q + len(fixed) - 1, len(fixed)))
            Zj[0, 0] = 1.0
            Zj[q:, 1:] = np.eye(len(fixed) - 1)
            S = np.zeros((len(Zj), q))
            S[:q] = np.eye(q)
            cov = Zj @ dense.B @ dense.V @ dense.B.T @ Zj.T + S @ spread @ S.T
            cov = cov + Zj @ cross @ S.T + S @ cross.T @ Zj.T
            np.testing.assert_allclose(got.cov[j], sigma2 * cov, rtol=1e-5, atol=1e-7 * sigma2)
            np.testing.assert_allclose(
                got.estimates.iloc[j], Zj @ dense.beta + S @ (gain[at] @ case.y), rtol=1e-5, atol=1e-7
            )
    np.testing.assert_allclose(got.bse.to_numpy() ** 2, np.diagonal(got.cov, axis1=1, axis2=2), rtol=1e-12)
    interval = got.conf_int(0.1)["Intercept"]
    np.testing.assert_allclose(
        (interval["upper"] - interval["lower"]) / 2, 1.6448536269514722 * got.bse["Intercept"], rtol=1e-12
    )


@pytest.mark.parametrize("reml", [True, False], ids=["REML", "ML"])
def test_uncertainty_of_theta(reml: bool) -> None:
    case, fit = fitted("slope", reml)
    assert not fit.is_singular
    theta = fit.theta.to_numpy()
    h = 1e-4
    m, unit = len(theta), np.eye(len(theta)) * h

    def value(t: np.ndarray) -> float:
        return case.criterion(t, reml)

    H = np.array(
        [
            [
                (value(theta + a + b) - value(theta + a - b) - value(theta - a + b) + value(theta - a - b))
                / (4 * h * h)
                for b in unit
            ]
            for a in unit
        ]
    )
    ends = [(Dense(case, theta + a), Dense(case, theta - a)) for a in unit]
    gamma = np.array([(up.beta - down.beta) / (2 * h) for up, down in ends]).T
    modes = np.array([(up.gain(0) - down.gain(0)) @ case.y / (2 * h) for up, down in ends]).T
    without, got = fit.empirical_bayes("f0"), fit.empirical_bayes("f0", theta_uncertainty=True)
    for j in range(len(got.cov)):
        slopes = np.zeros((4, m))
        slopes[0], slopes[2:] = gamma[0], gamma[1:]
        slopes[:2] += modes[2 * j : 2 * j + 2]
        # the dense derivatives are differences of numbers with some 1e-12, in steps of 1e-4
        np.testing.assert_allclose(
            got.cov[j] - without.cov[j], slopes @ (2 * np.linalg.inv(H)) @ slopes.T, rtol=2e-4, atol=1e-6
        )


def test_uncertainty_of_theta_on_the_boundary() -> None:
    rng = np.random.default_rng(4)
    y, groups = rng.normal(size=72), np.repeat(np.arange(12), 6)
    fit = hlm.Model.from_arrays(y, np.ones((72, 1)), [hlm.Random(groups)]).fit()
    assert fit.is_singular
    # û and γ̂ are even in θ: at zero they do not move
    gamma, effects, cov = theta_sensitivity(fit)
    np.testing.assert_allclose(gamma, 0, atol=1e-9)
    np.testing.assert_allclose(effects["g"], 0, atol=1e-9)
    assert np.isfinite(cov).all()


@pytest.mark.parametrize("between", [1.5, 0.0], ids=["", "negative ANOVA estimate"])
def test_balanced_one_way_closed_form(between: float) -> None:
    rng = np.random.default_rng(4)
    J, n = 12, 6
    groups = np.repeat(np.arange(J), n)
    y = between * rng.normal(size=J)[groups] + rng.normal(size=J * n)
    means = pd.Series(y).groupby(groups).mean().to_numpy()
    msw, msb = ((y - means[groups]) ** 2).sum() / (J * (n - 1)), n * means.var(ddof=1)
    assert (msb > msw) == (between > 0), "the case must have the ANOVA estimate it is for"
    fit = hlm.Model.from_arrays(y, np.ones((J * n, 1)), [hlm.Random(groups)]).fit()
    sigma2 = msw if between else y.var(ddof=1)
    tau = (msb - msw) / n if between else 0.0
    share = tau / (tau + sigma2 / n)  # 1 - msw / msb where that is not negative
    assert fit.reliability().loc[("g", "Intercept"), "reliability"] == pytest.approx(share, rel=1e-7, abs=1e-12)
    if between:
        assert share == pytest.approx(1 - msw / msb, rel=1e-12)
    gamma_var = (tau + sigma2 / n) / J
    got = fit.empirical_bayes("g")
    np.testing.assert_allclose(got.estimates["Intercept"], y.mean() + share * (means - y.mean()), rtol=1e-7)
    np.testing.assert_allclose(got.cov[:, 0, 0], tau * (1 - share) + (1 - share) ** 2 * gamma_var, rtol=1e-7)
    table = fit.residual_table("g")
    np.testing.assert_allclose(table["ols.Intercept"], means - y.mean(), rtol=1e-8)
    np.testing.assert_allclose(table["pv.Intercept"], tau * (1 - share) + share**2 * gamma_var, rtol=1e-6, atol=1e-12)
    chi2 = fit.variance_tests().loc[("g", "Intercept")]
    assert chi2["chi2"] == pytest.approx((J - 1) * msb / sigma2, rel=1e-7)
    assert chi2["df"] == J - 1


@pytest.mark.parametrize("name", ["intercept", "slope"])
def test_posterior_of_lindley_and_smith(name: str) -> None:
    """With T, σ² and γ: β_j has precision V⁻¹ + T⁻¹ and mean weighted by it (Lindley and Smith 1972)."""
    case, fit = fitted(name)
    assert not fit.is_singular
    T, q = fit.covariances["f0"].to_numpy(), case.Z[0].shape[1]
    own, covariances = level(fit, "f0"), fit.conditional_covariances(beta_known=True)["f0"]
    fixed = case.X @ fit.params.to_numpy()
    for j in np.flatnonzero(own.rank == q):
        rows = case.codes[0] == j
        Z = case.Z[0][rows]
        V = fit.sigma**2 * np.linalg.inv(Z.T @ Z)
        b = np.linalg.lstsq(Z, (case.y - fixed)[rows], rcond=None)[0]
        posterior = np.linalg.inv(np.linalg.inv(V) + np.linalg.inv(T))
        np.testing.assert_allclose(covariances[j], posterior, rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(fit.random_effects["f0"].iloc[j], posterior @ np.linalg.solve(V, b), rtol=1e-6)


def test_crossed_factors_have_no_own_estimates() -> None:
    fit = hlm.Model("y ~ 1 + (1 | g) + (1 | h)", crossed()).fit()
    for call in (fit.reliability, fit.variance_tests, fit.poolings, lambda: fit.ols("h")):
        with pytest.raises(hlm.errors.DesignError, match="crossed"):
            call()
    values = fit.reliability("prediction")["reliability"]
    for name in ("g", "h"):
        T = fit.covariances[name].iloc[0, 0]
        assert values[(name, "Intercept")] == pytest.approx(1 - (fit.random_effects_cov[name][:, 0, 0] / T).mean())
    with pytest.raises(hlm.errors.DataError, match="kind"):
        fit.reliability("omega")


def crossed() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    g, h = np.repeat(np.arange(12), 8), np.tile(np.arange(8), 12)
    y = rng.normal(size=12)[g] + rng.normal(size=8)[h] + 0.5 * rng.normal(size=96)
    return pd.DataFrame({"y": y, "g": g, "h": h})
