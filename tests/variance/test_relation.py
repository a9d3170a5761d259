"""Fits with a known covariance between levels: against dense algebra, closed forms, and models that are the same."""

import pickle
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import hlm
from hlm.diagnostics.deletion import refit_without

methods = pytest.mark.parametrize("reml", [True, False], ids=["REML", "ML"])


def pedigree(count: int, founders: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Numerator relationship matrix A and its inverse, A = T D T' (Henderson 1976), no animal being inbred by sibs."""
    rng = np.random.default_rng(seed)
    A = np.zeros((count, count))
    for i in range(count):
        if i < founders:
            A[i, i] = 1.0
            continue
        one, other = rng.choice(i, 2, replace=False)
        A[i, :i] = A[:i, i] = 0.5 * (A[one, :i] + A[other, :i])
        A[i, i] = 1 + 0.5 * A[one, other]
    return A, np.linalg.inv(A)


@dataclass
class Data:
    """Animals measured once or a few times, in herds; `K` knows more animals than are measured."""

    frame: pd.DataFrame
    K: pd.DataFrame
    precision: np.ndarray

    @property
    def measured(self) -> list[Any]:
        return sorted(set(self.frame["animal"]))

    @property
    def others(self) -> list[Any]:
        return [label for label in self.K.index if label not in set(self.measured)]


def simulate(n: int, count: int = 30, founders: int = 6, seed: int = 0, unit: float = 1.0) -> Data:
    rng = np.random.default_rng(seed)
    A, inverse = pedigree(count, founders, seed)
    labels = [f"a{i:02d}" for i in rng.permutation(count)]
    own = np.r_[np.arange(founders, count), rng.integers(founders, count, n)][:n]
    u = np.linalg.cholesky(A) @ rng.normal(size=(count, 2)) @ np.array([[1.0, 0.4], [0.0, 0.7]])
    x, z = rng.normal(size=(2, n))
    herd = rng.integers(0, 5, n)
    y = 3 + x + u[own, 0] + z * u[own, 1] + rng.normal(size=5)[herd] + 0.8 * rng.normal(size=n)
    frame = pd.DataFrame({"y": y, "x": x, "z": z, "animal": [labels[i] for i in own], "herd": herd})
    return Data(frame, pd.DataFrame(unit * A, labels, labels), inverse / unit)


class Dense:
    """n × n algebra at the estimates of a fit: u over all labels of K, effect by effect within a label."""

    def __init__(self, fit: hlm.Fit, labels: list[Any], K: np.ndarray, factor: str) -> None:
        design = fit.model.design
        self.y, self.X = design.y, design.X
        V = fit.sigma**2 * np.eye(len(self.y))
        self.own, self.others = design.factor(factor), [f for f in design.factors if f.name != factor]
        for other in self.others:
            Z, T = design.Z(other.name), fit.covariances[other.name].to_numpy()
            V += (Z @ T @ Z.T) * (other.codes[:, None] == other.codes[None, :])
        q = self.own.width
        place = pd.Index(labels).get_indexer(self.own.labels)[self.own.codes]
        self.Z = np.zeros((len(self.y), len(labels) * q))
        for j, column in enumerate(self.own.columns):
            self.Z[np.arange(len(self.y)), place * q + j] = column
        self.G = np.kron(K, fit.covariances[factor].to_numpy())
        self.V = V + self.Z @ self.G @ self.Z.T
        self.inverse = np.linalg.inv(self.V)
        self.S = self.X.T @ self.inverse @ self.X
        self.beta = np.linalg.solve(self.S, self.X.T @ self.inverse @ self.y)
        self.P = self.inverse - self.inverse @ self.X @ np.linalg.solve(self.S, self.X.T @ self.inverse)

    def criterion(self, reml: bool) -> float:
        n, p = self.X.shape
        value = np.linalg.slogdet(self.V)[1] + (np.linalg.slogdet(self.S)[1] if reml else 0.0)
        return float(value + (n - p if reml else n) * np.log(2 * np.pi) + self.y @ self.P @ self.y)

    def effects(self, beta_known: bool = False) -> tuple[np.ndarray, np.ndarray]:
        q = self.own.width
        modes = (self.G @ self.Z.T @ self.P @ self.y).reshape(-1, q)
        middle = self.inverse if beta_known else self.P
        C = self.G - self.G @ self.Z.T @ middle @ self.Z @ self.G
        return modes, np.array([C[j : j + q, j : j + q] for j in range(0, len(C), q)])


@pytest.mark.parametrize("reml", [True, False], ids=["REML", "ML"])
def test_weight_gain_of_calves_as_printed(reml: bool) -> None:
    """Mrode (2014), Linear Models for the Prediction of Animal Breeding Values, example 3.1: both variances known."""
    gain = pd.DataFrame(
        {"animal": [4, 5, 6, 7, 8], "sex": ["m", "f", "f", "m", "m"], "gain": [4.5, 2.9, 3.9, 3.5, 5.0]}
    )
    precision = np.zeros((8, 8))
    for animal, parents in {1: [], 2: [], 3: [], 4: [1], 5: [3, 2], 6: [1, 2], 7: [4, 5], 8: [3, 6]}.items():
        row = np.zeros(8)
        row[animal - 1], row[[parent - 1 for parent in parents]] = 1.0, -0.5
        precision += np.outer(row, row) / (1 - 0.25 * len(parents))
    model = hlm.Model(
        "gain ~ 0 + sex + (1 | animal)", gain, between={"animal": hlm.Between(precision, range(1, 9), precision=True)}
    )
    fit = model.fit(reml=reml, fixed={"animal": 20.0, "sigma": np.sqrt(40.0)})
    assert len(fit.trace) == 1
    np.testing.assert_allclose(fit.params, [3.404, 4.358], atol=1e-3)  # 4.3585 is printed as 4.358
    printed = [0.098, -0.019, -0.041, -0.009, -0.186, 0.177, -0.249, 0.183]
    np.testing.assert_allclose(fit.random_effects["animal"]["Intercept"].sort_index(), printed, atol=5.1e-4)


FORMULAS = {
    "one record each": ("y ~ x + (1 | animal)", 24),
    "repeated": ("y ~ x + (1 | animal)", 60),
    "slopes": ("y ~ x + (z | animal)", 90),
    "crossed with a peeled factor": ("y ~ x + (1 | animal) + (1 | herd)", 60),
    "independent slopes": ("y ~ x + (z || animal) + (1 | herd)", 90),
}


@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize("unit", [1.0, 1e6, 1e-6], ids=str)
@methods
def test_a_fit_is_that_of_dense_algebra(name: str, unit: float, reml: bool) -> None:
    formula, n = FORMULAS[name]
    data = simulate(n, unit=unit)
    labels = [*data.measured, *data.others]
    K = data.K.loc[labels, labels].to_numpy()
    fit = hlm.Model(formula, data.frame, between={"animal": data.K}).fit(reml=reml)
    assert fit.converged, fit.certificate
    dense = Dense(fit, labels, K, "animal")
    assert fit.criterion == pytest.approx(dense.criterion(reml), abs=1e-8)
    np.testing.assert_allclose(fit.params, dense.beta, rtol=1e-8)
    np.testing.assert_allclose(fit.cov_params(), np.linalg.inv(dense.S), rtol=1e-7, atol=1e-12)
    # T and σ² as they are cannot be bettered: the engine's gradient is that of the dense criterion, which is zero
    for known in (False, True):
        modes, covariances = dense.effects(known)
        np.testing.assert_allclose(fit.random_effects["animal"], modes, rtol=1e-6, atol=1e-8)
        found = fit.conditional_covariances(beta_known=known)["animal"]
        np.testing.assert_allclose(found, covariances, rtol=1e-6, atol=1e-9)
    assert list(fit.random_effects["animal"].index[: len(data.measured)]) == data.measured
    assert set(fit.random_effects["animal"].index) == set(data.K.index)
    np.testing.assert_allclose(
        fit.fittedvalues,
        dense.y - fit.sigma**2 * dense.P @ dense.y,
        rtol=1e-7,
    )
    again = pickle.loads(pickle.dumps(fit))
    np.testing.assert_array_equal(again.random_effects["animal"], fit.random_effects["animal"])


@pytest.mark.parametrize("name", FORMULAS)
@methods
@pytest.mark.parametrize("information", ["observed", "average", "expected"])
def test_derivatives_are_those_of_dense_algebra(name: str, reml: bool, information: str) -> None:
    formula, n = FORMULAS[name]
    data = simulate(n, seed=3)
    fit = hlm.Model(formula, data.frame, between={"animal": data.K}).fit(reml=reml)
    criterion, template = fit._criterion, fit._problem.template
    theta = fit._point + 0.2 * np.random.default_rng(0).normal(size=template.m)
    criterion.value(theta)
    gradient, hessian = criterion.derivatives(information)
    y, X = fit.model.design.y, fit.model.design.X
    labels = data.measured
    K = data.K.loc[labels, labels].to_numpy()
    maps, nu = fit._problem.maps, fit.nobs - (X.shape[1] if reml else 0)

    def value(at: np.ndarray) -> float:
        V = np.eye(n)
        for factor, L, M in zip(fit.model.design.factors, template.factors_of(at), maps, strict=True):
            Z, between = fit.model.design.Z(factor.name), np.eye(factor.size)
            if factor.name == "animal":
                between = K
            V += (Z @ M @ L @ L.T @ M.T @ Z.T) * between[np.ix_(factor.codes, factor.codes)]
        inverse = np.linalg.inv(V)
        S = X.T @ inverse @ X
        residual = y - X @ np.linalg.solve(S, X.T @ inverse @ y)
        logs = np.linalg.slogdet(V)[1] + (np.linalg.slogdet(S)[1] if reml else 0.0)
        return float(logs + nu * (1 + np.log(2 * np.pi * (residual @ inverse @ residual) / nu)))

    assert criterion.value(theta) == pytest.approx(value(theta), abs=1e-9)
    unit, h = np.eye(template.m), 1e-5
    slopes = [(value(theta + h * e) - value(theta - h * e)) / (2 * h) for e in unit]
    np.testing.assert_allclose(gradient, slopes, rtol=1e-6, atol=1e-6 * np.abs(gradient).max())
    if information == "observed":
        h = 1e-3
        second = [
            [
                value(theta + h * (a + b))
                - value(theta + h * (a - b))
                - value(theta - h * (a - b))
                + value(theta - h * (a + b))
                for a in unit
            ]
            for b in unit
        ]
        np.testing.assert_allclose(hessian, np.array(second) / (4 * h * h), atol=2e-4 * np.abs(hessian).max())


@methods
def test_covariance_and_precision_dense_and_sparse_are_the_same(reml: bool) -> None:
    data = simulate(60)
    K, labels = data.K.to_numpy(), list(data.K.index)
    fits = [
        hlm.Model("y ~ x + (1 | animal)", data.frame, between={"animal": between}).fit(reml=reml)
        for between in (
            data.K,
            hlm.Between(sparse.csc_array(K), labels),
            hlm.Between(data.precision, labels, precision=True),
            hlm.Between(sparse.csr_matrix(np.where(np.abs(data.precision) > 1e-12, data.precision, 0)), labels, True),
        )
    ]
    for fit in fits[1:]:
        assert fit.criterion == pytest.approx(fits[0].criterion, abs=1e-9)
        np.testing.assert_allclose(fit.covariances["animal"], fits[0].covariances["animal"], rtol=1e-7)
        effects = fit.random_effects["animal"].loc[fits[0].random_effects["animal"].index]
        np.testing.assert_allclose(effects, fits[0].random_effects["animal"], rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(fit.random_effects_cov["animal"], fits[0].random_effects_cov["animal"], rtol=1e-6)


@methods
def test_the_identity_is_the_plain_model(reml: bool) -> None:
    data = simulate(90)
    formula = "y ~ x + (z | animal) + (1 | herd)"
    plain = hlm.Model(formula, data.frame).fit(reml=reml)
    labels = data.measured
    for K in (np.eye(len(labels)), sparse.eye_array(len(labels)), 7.0 * np.eye(len(labels))):
        fit = hlm.Model(formula, data.frame, between={"animal": K}).fit(reml=reml)
        # the factor is in the core instead of peeled: sums run in another order
        assert fit.criterion == pytest.approx(plain.criterion, abs=1e-11)
        T = fit.covariances["animal"] * K.diagonal()[0]
        np.testing.assert_allclose(T, plain.covariances["animal"], rtol=1e-7)
        np.testing.assert_allclose(fit.random_effects["animal"], plain.random_effects["animal"], rtol=1e-7, atol=1e-9)
        np.testing.assert_allclose(
            fit.random_effects_cov["animal"], plain.random_effects_cov["animal"], rtol=1e-7, atol=1e-10
        )


@methods
def test_clones_are_one_level(reml: bool) -> None:
    """K = SS' with S the membership in coarser groups has rank below J: the model is that of the groups."""
    data = simulate(90)
    frame = data.frame.assign(line=data.frame["animal"].map({a: int(a[1:]) % 7 for a in data.measured}))
    lines = pd.Series({a: int(a[1:]) % 7 for a in data.measured})
    K = pd.DataFrame((lines.to_numpy()[:, None] == lines.to_numpy()) * 1.0, lines.index, lines.index)
    plain = hlm.Model("y ~ x + (1 | line)", frame).fit(reml=reml)
    fit = hlm.Model("y ~ x + (1 | animal)", frame, between={"animal": K}).fit(reml=reml)
    assert fit.criterion == pytest.approx(plain.criterion, abs=1e-9)
    assert fit.is_singular == plain.is_singular
    expected = plain.random_effects["line"].loc[lines.to_numpy()]
    np.testing.assert_allclose(fit.random_effects["animal"], expected, rtol=1e-6, atol=1e-8)
    # a clone without rows is what the others are
    wider = pd.DataFrame(np.kron(np.eye(7), np.ones((2, 2))), index=range(14), columns=range(14))
    renamed = frame.assign(animal=2 * frame["line"])
    fit = hlm.Model("y ~ x + (1 | animal)", renamed, between={"animal": wider}).fit(reml=reml)
    modes = fit.random_effects["animal"]["Intercept"]
    np.testing.assert_allclose(modes.loc[range(1, 14, 2)], modes.loc[range(0, 14, 2)], rtol=1e-7)
    cov = pd.Series(fit.random_effects_cov["animal"][:, 0, 0], modes.index)
    np.testing.assert_allclose(cov.loc[range(1, 14, 2)], cov.loc[range(0, 14, 2)], rtol=1e-7)


def test_animals_without_records_are_predicted() -> None:
    data = simulate(60)
    fit = hlm.Model("y ~ x + (z | animal)", data.frame, between={"animal": data.K}).fit()
    new = pd.DataFrame({"x": 1.0, "z": 2.0, "animal": [*data.measured[:2], *data.others[:2]]})
    u = fit.random_effects["animal"].loc[new["animal"]].to_numpy()
    expected = fit.params["Intercept"] + fit.params["x"] + u @ [1.0, 2.0]
    np.testing.assert_allclose(fit.predict(new), expected, rtol=1e-12)
    with pytest.raises(hlm.DataError, match="level 'stranger' of 'animal'"):
        fit.predict(new.assign(animal="stranger"))
    assert len(fit.coefficients["animal"]) == len(data.K)
    text = f"levels of 'animal' related by a known covariance of 30, {len(data.others)} of them without rows"
    assert text in str(fit)


@methods
def test_genetic_and_permanent_effects_of_the_same_animals(reml: bool) -> None:
    data = simulate(90)
    frame = data.frame.assign(permanent=data.frame["animal"])
    fit = hlm.Model("y ~ x + (1 | animal) + (1 | permanent)", frame, between={"animal": data.K}).fit(reml=reml)
    labels = [*data.measured, *data.others]
    dense = Dense(fit, labels, data.K.loc[labels, labels].to_numpy(), "animal")
    assert fit.criterion == pytest.approx(dense.criterion(reml), abs=1e-8)
    with pytest.raises(hlm.DesignError, match="group the rows alike"):
        hlm.Model("y ~ x + (1 | animal) + (1 | permanent)", frame, between={"animal": np.eye(len(data.measured))})


def test_effects_that_explain_every_row_are_named() -> None:
    data = simulate(24, seed=2)
    A = data.K.loc[data.frame["animal"], data.frame["animal"]].to_numpy()
    frame = data.frame.assign(y=2 + np.linalg.cholesky(A) @ np.random.default_rng(2).normal(size=24))
    model = hlm.Model("y ~ x + (1 | animal)", frame, between={"animal": data.K})
    with pytest.raises(hlm.DegenerateError, match=r"residual variance goes to zero.* 'animal' explain 'y'"):
        model.fit()
    assert model.fit(fixed={"sigma": 0.1}).converged
    assert model.fit(constraints="sigma2 = 0.25*var(animal)").converged


def test_one_record_each_is_fitted_as_the_eigenvalues_say() -> None:
    """With one record each and no herds the criterion is a function of one ratio: the least value of a fine grid."""
    ratios = np.r_[0.0, 10.0 ** np.linspace(-3, 5, 400)]
    inside = 0
    for seed in range(30):
        data = simulate(24, seed=seed)
        A = data.K.loc[data.frame["animal"], data.frame["animal"]].to_numpy()
        rng = np.random.default_rng(seed)
        y = rng.choice([0.3, 1.0, 3.0]) * np.linalg.cholesky(A) @ rng.normal(size=24) + rng.normal(size=24)
        values, vectors = np.linalg.eigh(A)
        X, turned = vectors.T @ np.column_stack([np.ones(24), data.frame["x"]]), vectors.T @ y
        grid = []
        for ratio in ratios:
            weights = 1 / (1 + ratio * values)
            S = X.T @ (weights[:, None] * X)
            residual = turned - X @ np.linalg.solve(S, X.T @ (weights * turned))
            r2 = residual @ (weights * residual)
            grid.append(np.linalg.slogdet(S)[1] - np.log(weights).sum() + 22 * (1 + np.log(2 * np.pi * r2 / 22)))
        model = hlm.Model("y ~ x + (1 | animal)", data.frame.assign(y=y), between={"animal": data.K})
        if np.argmin(grid) == len(ratios) - 1:
            with pytest.raises(hlm.DegenerateError):
                model.fit()
            continue
        fit = model.fit()
        # the grid's steps of 5 % miss the least value by some 1e-3 of what a step changes
        assert min(grid) - 0.01 < fit.criterion < min(grid) + 1e-8
        inside += 1
    assert 15 < inside < 30


def test_one_record_each_needs_relatives() -> None:
    data = simulate(24)
    assert len(data.measured) == 24
    with pytest.raises(hlm.DesignError, match=r"as many levels \(24\) as rows"):
        hlm.Model("y ~ x + (1 | animal)", data.frame, between={"animal": 2 * np.eye(24)}).fit()


@pytest.mark.parametrize("options", [{"fixed": {"sigma": 0.8}}, {"fixed": {"animal": 1.0}}, {"fixed": {"x": 1.0}}])
@methods
def test_known_values_beside_a_known_matrix(options: dict[str, Any], reml: bool) -> None:
    data = simulate(60, unit=4.0)
    model = hlm.Model("y ~ x + (1 | animal) + (1 | herd)", data.frame, between={"animal": data.K})
    fit = model.fit(reml=reml, **options)
    assert fit.converged
    labels = [*data.measured, *data.others]
    dense = Dense(fit, labels, data.K.loc[labels, labels].to_numpy(), "animal")
    if "x" in options["fixed"]:
        assert fit.params["x"] == 1.0
        return
    assert fit.criterion == pytest.approx(dense.criterion(reml), abs=1e-8)
    if "animal" in options["fixed"]:
        assert fit.covariances["animal"].iloc[0, 0] == pytest.approx(1.0, rel=1e-12)
    modes, covariances = dense.effects()
    np.testing.assert_allclose(fit.random_effects["animal"], modes, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(fit.random_effects_cov["animal"], covariances, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("method", ["fisher", "em", "ecme"])
def test_other_methods_reach_the_same_optimum(method: str) -> None:
    data = simulate(60)
    model = hlm.Model("y ~ x + (1 | animal) + (1 | herd)", data.frame, between={"animal": data.K})
    assert model.fit(method=method).criterion == pytest.approx(model.fit().criterion, abs=1e-6)


def test_a_sparse_core_is_not_possible() -> None:
    data = simulate(60)
    model = hlm.Model("y ~ x + (1 | animal)", data.frame, between={"animal": data.K})
    with pytest.raises(hlm.DesignError, match="core='sparse' is not possible with a known covariance"):
        model.fit(core="sparse")


# ---- what is built on a fit -----------------------------------------------------------------------------------------


def fitted(n: int = 90) -> tuple[Data, hlm.Fit, Dense]:
    data = simulate(n, unit=2.0)
    fit = hlm.Model("y ~ x + (z | animal) + (1 | herd)", data.frame, between={"animal": data.K}).fit()
    labels = [*data.measured, *data.others]
    return data, fit, Dense(fit, labels, data.K.loc[labels, labels].to_numpy(), "animal")


def test_standard_errors_of_least_squares_under_the_model() -> None:
    _, fit, dense = fitted()
    bread = np.linalg.inv(dense.X.T @ dense.X)
    expected = np.sqrt(np.diag(bread @ dense.X.T @ dense.V @ dense.X @ bread))
    np.testing.assert_allclose(fit.standard_errors()["OLS, model"], expected, rtol=1e-9)


def test_shares_of_variance_and_accuracy() -> None:
    _, fit, dense = fitted()
    own = np.diag(dense.Z @ dense.G @ dense.Z.T).mean()
    herd = fit.covariances["herd"].iloc[0, 0]
    assert fit.icc()["variance"]["animal"] == pytest.approx(own, rel=1e-10)
    assert fit.icc()["share"]["animal"] == pytest.approx(own / (own + herd + fit.sigma**2), rel=1e-10)
    errors = dense.effects()[1]
    prior = np.array([dense.G[j : j + 2, j : j + 2] for j in range(0, len(dense.G), 2)])
    expected = 1 - np.diagonal(errors, axis1=1, axis2=2) / np.diagonal(prior, axis1=1, axis2=2)
    np.testing.assert_allclose(fit.reliabilities("animal", "prediction"), expected, rtol=1e-6, atol=1e-8)


def test_effective_degrees_of_freedom() -> None:
    """tr H of ŷ = Hy with the covariances known; with them estimated, by differences of refitted responses."""
    _, fit, dense = fitted(60)
    hat = np.eye(len(dense.y)) - fit.sigma**2 * dense.P
    found = fit.conditional_aic
    assert found.df == pytest.approx(np.trace(hat), rel=1e-9)
    assert found.estimated_df is not None
    total, h = 0.0, 1e-4
    for i, step in enumerate(h * np.eye(len(dense.y))):
        ends = [float(fit.refit(dense.y + sign * step).fittedvalues.iloc[i]) for sign in (1, -1)]
        total += (ends[0] - ends[1]) / (2 * h)
    assert found.estimated_df == pytest.approx(total, rel=1e-5)
    np.testing.assert_allclose(fit.leverages, np.diag(hat), rtol=1e-8)


def test_errors_of_prediction_with_and_without_records() -> None:
    """Var(x'γ̂ + z'û - x'γ - z'u) = z'Gz - k'V⁻¹k + (x - X'V⁻¹k)'S⁻¹(x - X'V⁻¹k), k = Cov(y, z'u)."""
    data, fit, dense = fitted()
    animals = [*data.measured[:3], *data.others]
    new = pd.DataFrame({"x": np.linspace(-1, 1, len(animals)), "z": 0.7, "animal": animals, "herd": 1})
    found = fit.predict(new, effects=["animal"], interval="confidence", theta_uncertainty=False)
    for row, (x, z, animal, _) in enumerate(new.itertuples(index=False)):
        place = [*data.measured, *data.others].index(animal)
        own = np.zeros(len(dense.G))
        own[2 * place : 2 * place + 2] = 1.0, z
        k = dense.Z @ dense.G @ own
        left = np.array([1.0, x]) - dense.X.T @ dense.inverse @ k
        expected = own @ dense.G @ own - k @ dense.inverse @ k + left @ np.linalg.solve(dense.S, left)
        assert found["se"].iloc[row] == pytest.approx(np.sqrt(expected), rel=1e-7)
    wider = fit.predict(new, effects=["animal"], interval="prediction")
    assert (wider["se"] > found["se"]).all()


def test_degrees_of_freedom_of_predictions_with_and_without_records() -> None:
    """2v² / (g'Ag), v of fits with the variances held and g its differences."""
    data, fit, _ = fitted()
    model, covariance = fit.model, fit.information("observed").covariance
    animals = [*data.measured[:3], *data.others]
    new = pd.DataFrame({"x": np.linspace(-1, 1, len(animals)), "z": 0.7, "animal": animals, "herd": 1})
    T, herd = fit.covariances["animal"].to_numpy(), fit.covariances["herd"].iloc[0, 0]
    at = {
        ("animal", "Intercept", "Intercept"): T[0, 0],
        ("animal", "z", "Intercept"): T[1, 0],
        ("animal", "z", "z"): T[1, 1],
        ("herd", "Intercept", "Intercept"): herd,
        ("residual", "", ""): fit.sigma**2,
    }

    def variance(values: np.ndarray) -> np.ndarray:
        known = {
            "animal": [[values[0], values[1]], [values[1], values[2]]],
            "herd": values[3],
            "sigma": values[4] ** 0.5,
        }
        held = model.fit(fixed=known)
        found = held.predict(new, effects=["animal"], interval="prediction", theta_uncertainty=False)
        return found["se"].to_numpy() ** 2

    centre, step = np.array(list(at.values())), 1e-4
    g = np.array([(variance(centre + e) - variance(centre - e)) / (2 * step) for e in step * np.eye(len(at))])
    A, v = covariance.loc[list(at), list(at)].to_numpy(), variance(centre)
    found = fit.predict(new, effects=["animal"], interval="prediction", method="satterthwaite")
    np.testing.assert_allclose(found["df"], 2 * v**2 / np.einsum("an,ab,bn->n", g, A, g), rtol=1e-5)


def test_rows_that_are_left_out_take_their_levels_with_them() -> None:
    data, fit, _ = fitted()
    kept = ~data.frame["animal"].isin(data.measured[:4]).to_numpy()
    again = refit_without(fit, kept)
    same = hlm.Model(fit.model.formula, data.frame[kept], between={"animal": data.K}).fit()
    assert again.criterion == pytest.approx(same.criterion, abs=1e-9)
    expected = same.random_effects["animal"].loc[again.random_effects["animal"].index]
    np.testing.assert_allclose(again.random_effects["animal"], expected, rtol=1e-6, atol=1e-8)
    assert len(expected) == len(data.K)


def test_new_responses_are_those_of_a_new_model() -> None:
    data, fit, _ = fitted()
    y = np.random.default_rng(5).normal(size=len(data.frame)) + 3 * data.frame["x"]
    again = fit.model.refit(y) if hasattr(fit.model, "refit") else fit.refit(y)
    same = hlm.Model(fit.model.formula, data.frame.assign(y=y), between={"animal": data.K}).fit()
    assert again.criterion == pytest.approx(same.criterion, abs=1e-9)
    np.testing.assert_allclose(again.random_effects["animal"], same.random_effects["animal"], rtol=1e-5, atol=1e-7)


def test_drawn_responses_have_the_covariance_of_the_model() -> None:
    _, fit, dense = fitted(60)
    draws = fit.simulate(4000, seed=1).to_numpy()
    found = np.cov(draws)
    # a covariance of 4000 draws has a standard error of √((v_ij² + v_ii v_jj) / 4000); the worst of 1800 is within five
    size = np.sqrt((dense.V**2 + np.outer(np.diag(dense.V), np.diag(dense.V))) / 4000)
    assert np.abs((found - dense.V) / size).max() < 5


def test_what_needs_independent_groups_is_refused() -> None:
    _, fit, _ = fitted()
    for call in (
        lambda: fit.variance_function(at={"z": 1.0}),
        lambda: fit.ranks("animal"),
        lambda: fit.residual_table("animal"),
        lambda: fit.empirical_bayes("animal"),
    ):
        with pytest.raises(hlm.DesignError, match=r"not offered with a known covariance between levels.* 'animal'"):
            call()


def test_models_with_different_matrices_are_not_nested() -> None:
    data, fit, _ = fitted()
    small = hlm.Model("y ~ x + (1 | animal)", data.frame, between={"animal": data.K}).fit()
    assert hlm.compare(small, fit).pvalue <= 1
    other = hlm.Model("y ~ x + (1 | animal)", data.frame).fit()
    with pytest.raises(hlm.DesignError, match="no random effects over 'animal'"):
        hlm.compare(other, fit)
