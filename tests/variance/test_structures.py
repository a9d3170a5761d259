"""Structures of T: against dense algebra and models that are the same, derivatives, zero variance, what is refused."""

import pickle

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import minimize

import hlm
from hlm.variance.structures import AR1, STRUCTURES, CompoundSymmetry, check_structure

from ..dense import criterion_at

J, Q, REPEATS = 24, 4, 5
CODES = np.repeat(np.arange(J), REPEATS)
OCCASION = np.tile(np.arange(REPEATS), J) % Q
Z = np.eye(Q)[OCCASION]
N = len(CODES)

methods = pytest.mark.parametrize("reml", [True, False], ids=["REML", "ML"])


def covariance(name: str, theta: np.ndarray) -> np.ndarray:
    """T in parameters for which an unconstrained optimiser can be used."""
    if name == "identity":
        return theta[0] ** 2 * np.eye(Q)
    if name == "cs":
        low = -1 / (Q - 1)
        rho = low + (1 - low) / (1 + np.exp(-theta[1]))
        return theta[0] ** 2 * ((1 - rho) * np.eye(Q) + rho)
    return theta[0] ** 2 * np.tanh(theta[1]) ** np.abs(np.subtract.outer(np.arange(Q), np.arange(Q)))


def simulate(T: np.ndarray, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    X = np.column_stack([np.ones(N), rng.normal(size=N)])
    u = rng.multivariate_normal(np.zeros(Q), T, size=J)
    return X @ [1.0, 2.0] + (Z * u[CODES]).sum(axis=1) + rng.normal(size=N), X


def model(y: np.ndarray, X: np.ndarray, structure: object, Z: np.ndarray = Z) -> hlm.Model:
    return hlm.Model.from_arrays(y, X, [hlm.Random(CODES, Z, covariance=structure)])


CASES = {
    "identity": ("identity", [1.0]),
    "cs positive": ("cs", [1.0, 1.0]),
    "cs negative": ("cs", [1.0, -3.0]),
    "ar1 positive": ("ar1", [1.0, 0.8]),
    "ar1 negative": ("ar1", [1.0, -0.8]),
}


@pytest.mark.parametrize("case", CASES)
@methods
@pytest.mark.parametrize("sigma", [None, 1.1])
def test_the_optimum_is_that_of_dense_algebra(case: str, reml: bool, sigma: float | None) -> None:
    name, true = CASES[case]
    y, X = simulate(covariance(name, np.array(true)))
    fit = model(y, X, name).fit(reml=reml, fixed=None if sigma is None else {"sigma": sigma})
    assert fit.converged, fit.certificate
    assert fit.is_singular == (np.linalg.eigvalsh(fit.covariances["g"])[0] < 1e-9)
    at = criterion_at(y, X, [(Z, CODES, fit.covariances["g"].to_numpy())], fit.sigma**2, reml)
    assert fit.criterion == pytest.approx(at, abs=1e-9)

    def dense(theta: np.ndarray) -> float:
        variance = np.exp(theta[0]) if sigma is None else sigma**2
        return criterion_at(y, X, [(Z, CODES, covariance(name, theta[1:]))], variance, reml)

    # BFGS by differences stops within about 1e-9 of the optimum, or 1e-6 where the correlation is the lowest
    best = min(minimize(dense, [0.0, *start], method="BFGS").fun for start in (true, [1.0] * len(true)))
    assert best - 1e-5 < fit.criterion < best + 1e-8
    assert fit.df_model == 2 + len(true) + (sigma is None)
    other = model(y, X, name).fit(reml=reml, method="fisher", fixed=None if sigma is None else {"sigma": sigma})
    assert abs(other.criterion - fit.criterion) < 1e-8


@pytest.mark.parametrize("case", ["identity", "cs positive", "cs negative"])
@pytest.mark.parametrize("method", ["em", "ecme"])
@pytest.mark.parametrize("sigma", [None, 1.1])
def test_em_where_the_m_step_is_closed(case: str, method: str, sigma: float | None) -> None:
    name, true = CASES[case]
    y, X = simulate(covariance(name, np.array(true)))
    fixed = None if sigma is None else {"sigma": sigma}
    newton = model(y, X, name).fit(fixed=fixed)
    other = model(y, X, name).fit(method=method, accelerate=True, fixed=fixed)
    assert abs(other.criterion - newton.criterion) < 1e-6
    values = other.trace["criterion"].to_numpy()
    assert (np.diff(values) <= 1e-11 * abs(values[0])).all()


def test_em_is_refused_where_it_is_not() -> None:
    y, X = simulate(covariance("ar1", np.array([1.0, 0.8])))
    with pytest.raises(hlm.HLMError, match=r"no closed M-step for the covariance of 'g' \(ar1\); use 'newton'"):
        model(y, X, "ar1").fit(method="em")
    with pytest.raises(hlm.HLMError, match="elements of T are known and sigma is not"):
        model(y, X, "unstructured").fit(method="em", fixed={"g": np.eye(Q)})


@methods
def test_identity_of_dummies_is_a_nested_factor_and_compound_symmetry_two(reml: bool) -> None:
    y, X = simulate(covariance("cs", np.array([1.0, 0.5])))
    data = pd.DataFrame({"y": y, "x": X[:, 1], "g": CODES, "o": [f"o{k}" for k in OCCASION]})
    nested = hlm.Model("y ~ x + (1 | g:o)", data).fit(reml=reml)
    own = hlm.Model("y ~ x + (0 + o | g)", data, covariance={"g": "identity"}).fit(reml=reml)
    assert own.criterion == pytest.approx(nested.criterion, abs=1e-9)
    assert own.covariances["g"].iloc[0, 0] == pytest.approx(nested.covariances["g:o"].iloc[0, 0], rel=1e-6)
    both = hlm.Model("y ~ x + (1 | g/o)", data).fit(reml=reml)
    own = hlm.Model("y ~ x + (0 + o | g)", data, covariance={"g": "cs"}).fit(reml=reml)
    assert own.criterion == pytest.approx(both.criterion, abs=1e-9)
    T = own.covariances["g"].to_numpy()
    assert T[0, 1] == pytest.approx(both.covariances["g"].iloc[0, 0], rel=1e-6)
    assert T[0, 0] - T[0, 1] == pytest.approx(both.covariances["g:o"].iloc[0, 0], rel=1e-6)


def test_balanced_one_way_has_its_closed_form() -> None:
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(12), 6)
    y = 1.5 * rng.normal(size=12)[groups] + rng.normal(size=72)
    table = pd.DataFrame({"y": y, "g": groups}).groupby("g")["y"]
    within, between = table.var().mean(), 6 * table.mean().var()
    for structure in ("identity", "cs", "ar1"):
        fit = hlm.Model.from_arrays(y, np.ones((72, 1)), [hlm.Random(groups, covariance=structure)]).fit()
        assert fit.sigma**2 == pytest.approx(within, rel=1e-10)
        assert fit.covariances["g"].iloc[0, 0] == pytest.approx((between - within) / 6, rel=1e-8)
        assert fit.df_model == 3


@pytest.mark.parametrize("name", ["identity", "cs", "ar1"])
def test_no_variance_at_all_is_singular_and_certified(name: str) -> None:
    singular = 0
    for seed in range(12):
        y, X = simulate(np.zeros((Q, Q)), seed)
        fit = model(y, X, name).fit()
        assert fit.converged, fit.certificate
        smallest = np.linalg.eigvalsh(fit.covariances["g"])[0] / fit.sigma**2
        assert fit.is_singular == (smallest < 1e-8)
        singular += fit.is_singular
        # nothing better among covariances of the structure
        for theta in ([0.1], [0.3]) if name == "identity" else ([0.2, 2.0], [0.2, -2.0], [0.1, 0.3], [0.3, -0.3]):
            T = fit.sigma**2 * covariance(name, np.array(theta))
            assert criterion_at(y, X, [(Z, CODES, T)], fit.sigma**2, True) > fit.criterion - 1e-8
    assert singular >= 3


@pytest.mark.parametrize("scale", [1e-6, 1e6])
@pytest.mark.parametrize("case", ["identity", "cs negative", "ar1 negative"])
def test_units_do_not_matter(case: str, scale: float) -> None:
    name, true = CASES[case]
    y, X = simulate(covariance(name, np.array(true)))
    fit, scaled = model(y, X, name).fit(), model(scale * y, X, name, Z / scale).fit()
    assert scaled.criterion - 2 * (N - 2) * np.log(scale) == pytest.approx(fit.criterion, abs=1e-8)
    np.testing.assert_allclose(scaled.covariances["g"], fit.covariances["g"] * scale**4, rtol=1e-5)
    fixed = model(scale * y, X, name).fit(fixed={"sigma": 1.1 * scale})
    same = model(y, X, name).fit(fixed={"sigma": 1.1})
    assert fixed.criterion - 2 * (N - 2) * np.log(scale) == pytest.approx(same.criterion, abs=1e-8)
    np.testing.assert_allclose(fixed.params, same.params * scale, rtol=1e-8)


def test_terms_of_one_factor_have_their_own_structures() -> None:
    y, X = simulate(covariance("cs", np.array([1.0, 0.5])))
    data = pd.DataFrame({"y": y, "x": X[:, 1], "g": CODES, "o": [f"o{k}" for k in OCCASION]})
    formula = "y ~ x + (0 + o | g) + (0 + x | g)"
    for key in ("(0 + o | g)", "0+o|g"):
        fit = hlm.Model(formula, data, covariance={key: "identity"}).fit()
        T = fit.covariances["g"].to_numpy()
        np.testing.assert_allclose(T[:Q, :Q], T[0, 0] * np.eye(Q), atol=1e-12)
        parts = [(np.column_stack([Z, X[:, 1]]), CODES, T)]
        assert fit.criterion == pytest.approx(criterion_at(y, X, parts, fit.sigma**2, True), abs=1e-9)
        assert list(fit.theta.index) == ["g.common", "g.x"]
    with pytest.raises(hlm.DesignError, match="it has the terms"):
        hlm.Model(formula, data, covariance={"g": "identity"})
    with pytest.raises(hlm.DesignError, match="no grouping factor or term 'h'"):
        hlm.Model(formula, data, covariance={"h": "cs"})
    with pytest.raises(hlm.DesignError, match=r"write \| for \|\|"):
        hlm.Model("y ~ x + (x || g)", data, covariance={"g": "cs"})
    with pytest.raises(hlm.DesignError, match="no structure 'toeplitz'; there are diagonal"):
        hlm.Model(formula, data, covariance={"0 + o | g": "toeplitz"})
    with pytest.raises(hlm.DataTypeError, match=r"write AR1\(\)"):
        hlm.Model(formula, data, covariance={"0 + o | g": AR1})
    with pytest.raises(hlm.DataTypeError, match="must be a mapping"):
        hlm.Model(formula, data, covariance="cs")
    with pytest.raises(hlm.DesignError, match="correlated=False is a covariance"):
        hlm.Model.from_arrays(y, X, [hlm.Random(CODES, Z, correlated=False, covariance="cs")])


def test_diagonal_and_unstructured_by_name_are_the_plain_models() -> None:
    data = hlm.datasets.load("sleepstudy")
    plain = hlm.Model("Reaction ~ Days + (Days || Subject)", data).fit()
    named = hlm.Model("Reaction ~ Days + (Days | Subject)", data, covariance={"Subject": "diagonal"}).fit()
    assert named.criterion == plain.criterion
    plain = hlm.Model("Reaction ~ Days + (Days | Subject)", data).fit()
    named = hlm.Model("Reaction ~ Days + (Days | Subject)", data, covariance={"Subject": "unstructured"}).fit()
    assert named.criterion == plain.criterion


def test_a_structure_beside_a_crossed_factor() -> None:
    y, X = simulate(covariance("ar1", np.array([1.0, 0.8])))
    rng = np.random.default_rng(5)
    items = rng.integers(0, 7, N)
    y = y + rng.normal(size=7)[items]
    for structure in ("ar1", "cs"):
        random = [hlm.Random(CODES, Z, covariance=structure), hlm.Random(items, name="item")]
        crossed = hlm.Model.from_arrays(y, X, random)
        for options in (
            {},
            {"fixed": {"sigma": 1.0}},
            {"fixed": {"x1": 2.0}},
            {"constraints": "var(item) = 0.5*sigma2"},
        ):
            fit = crossed.fit(**options)
            assert fit.converged
            parts = [
                (Z, CODES, fit.covariances["g"].to_numpy()),
                (np.ones((N, 1)), items, fit.covariances["item"].to_numpy()),
            ]
            known = "x1" in options.get("fixed", {})
            left, right = (y - 2 * X[:, 1], X[:, :1]) if known else (y, X)
            assert fit.criterion == pytest.approx(criterion_at(left, right, parts, fit.sigma**2, True), abs=1e-8)


def test_a_fit_with_a_structure_can_be_saved_traced_and_printed() -> None:
    y, X = simulate(covariance("ar1", np.array([1.0, -0.8])))
    fit = model(y, X, "ar1").fit()
    again = pickle.loads(pickle.dumps(fit))
    assert again.criterion == fit.criterion
    assert str(again) == str(fit)
    # arrays that were views are not, after that: sums may run in another order
    np.testing.assert_allclose(again.random_effects["g"], fit.random_effects["g"], rtol=1e-10)
    assert "over 'g': ar1" in str(fit)
    assert list(fit.trace.columns[-2:]) == ["g.sd", "g.angle"]
    assert fit.theta["g.angle"] < 0
    T = fit.covariances["g"].to_numpy()
    assert fit.theta["g.sd"] * fit.sigma == pytest.approx(np.sqrt(T[0, 0]))
    assert np.sin(fit.theta["g.angle"]) == pytest.approx(T[0, 1] / T[0, 0])


@pytest.mark.parametrize("name", STRUCTURES)
@pytest.mark.parametrize("q", [1, 2, 3, 5])
def test_derivatives_starts_and_cones(name: str, q: int) -> None:
    check_structure(STRUCTURES[name], [f"e{i}" for i in range(q)], "x")


class Wrong(CompoundSymmetry):
    """Broken in one method, as a user's might be."""

    name = "wrong"
    broken = ""

    def names(self, effects: list[str]) -> list[str]:
        return ["one"] if self.broken == "names" else super().names(effects)

    def derivatives(self, theta: np.ndarray, q: int) -> np.ndarray:
        return super().derivatives(theta, q) * (2 if self.broken == "derivatives" else 1)

    def second_derivatives(self, theta: np.ndarray, q: int) -> np.ndarray:
        return super().second_derivatives(theta, q) + (self.broken == "second_derivatives")

    def start(self, D: np.ndarray) -> np.ndarray:
        theta = super().start(D)
        return {"start": theta + 1, "cone": np.minimum(theta, 1.0)}.get(self.broken, theta)

    def root(self, theta: np.ndarray, q: int) -> np.ndarray:
        return np.zeros(3) if self.broken == "root" else super().derivatives(theta, q).T @ theta


@pytest.mark.parametrize("broken", ["names", "derivatives", "second_derivatives", "start", "cone", "root"])
def test_what_a_user_wrote_wrongly_is_named(broken: str) -> None:
    structure = Wrong()
    structure.broken = broken
    y, X = simulate(np.eye(Q))
    method = "start" if broken == "cone" else broken
    with pytest.raises(hlm.DesignError, match=rf"Wrong\.{method}, covariance of 'g'"):
        model(y, X, structure)
    structure.broken = ""
    fit = model(y, X, structure).fit()
    assert fit.criterion == pytest.approx(model(y, X, "cs").fit().criterion, abs=1e-9)
