"""Known values and constraints: against dense algebra, R, books and closed forms; what is refused."""

import json
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import minimize

import hlm

from ..dense import criterion_at
from ..reference import DATA, frame

KNOWN = json.loads((DATA / "known_values.json").read_text(encoding="utf-8"))
methods = pytest.mark.parametrize("reml", [True, False], ids=["REML", "ML"])


# ---- R, books and closed forms --------------------------------------------------------------------------------------


@pytest.mark.parametrize("result", KNOWN["models"], ids=lambda m: f"{m['dataset']}:{m['id']}")
def test_r_with_sigma_known(result: dict[str, Any]) -> None:
    columns, group = result["random"].lstrip("~").split(" | ")
    table = KNOWN["tables"].get(result["dataset"])
    data = frame(result["dataset"]) if table is None else pd.DataFrame(table)
    formula = f"{result['fixed']} + ({columns} | {group})"
    if result["variance"]:
        fit = hlm.Model(formula, data, sampling_variance=result["variance"]).fit(reml=result["reml"])
    else:
        fit = hlm.Model(formula, data).fit(reml=result["reml"], fixed={"sigma": result["sigma"]})
    assert fit.converged
    assert fit.sigma == pytest.approx(result["sigma"], rel=1e-14)
    assert fit.criterion == pytest.approx(result["criterion"], abs=1e-8)
    np.testing.assert_allclose(fit.params, result["fixef"], rtol=1e-6)
    np.testing.assert_allclose(fit.cov_params(), result["vcov"], rtol=1e-5, atol=1e-9)
    T = np.array(result["T"])
    np.testing.assert_allclose(fit.covariances[group], T, rtol=1e-5, atol=1e-6 * T.max())
    assert fit.df_model == len(fit.params) + len(T) * (len(T) + 1) // 2
    modes = fit.random_effects[group]
    modes.index = modes.index.astype(str)
    levels = result["ranef"]["levels"]
    expected = np.array(result["ranef"]["values"]) if "values" in result["ranef"] else None
    if expected is not None:
        np.testing.assert_allclose(modes.loc[levels], expected.reshape(len(levels), -1), rtol=1e-4, atol=1e-5)


def teacher_expectancy() -> pd.DataFrame:
    about = KNOWN["teacher_expectancy"]
    data = pd.DataFrame(about["rows"], columns=about["columns"])
    return data.assign(weeks_c=np.minimum(data["weeks"], 3).astype(float))


def printed(entry: str, key: str) -> np.ndarray:
    return np.array([float(number) for number in KNOWN["published"][entry]["printed"][key].split()])


def test_teacher_expectancy_as_printed() -> None:
    data = teacher_expectancy()
    model = hlm.Model("d ~ 1 + (1 | study)", data, sampling_variance="V")
    fit = model.fit()
    found = printed("vknown_methods", "tau2"), printed("vknown_methods", "mu"), printed("vknown_methods", "se")
    for column, options in ((1, {"reml": False}), (2, {}), (0, {"fixed": {"study": 0.0}})):
        fit = model.fit(**options)
        values = fit.covariances["study"].iloc[0, 0], fit.params.iloc[0], fit.bse.iloc[0]
        for value, table in zip(values, found, strict=True):
            assert value == pytest.approx(table[column], abs=5.1e-5)
        assert fit.is_singular is False
    fit = model.fit()
    u = fit.random_effects["study"].to_numpy()[:, 0]
    # the printed ones are those of tau² to the five digits that metafor's scoring stops at
    np.testing.assert_allclose(u, printed("vknown_uncond", "EB u*"), atol=1e-4)
    np.testing.assert_allclose(u + fit.params.iloc[0], printed("vknown_uncond", "EB delta*"), atol=1e-4)
    weeks = hlm.Model("d ~ weeks_c + (1 | study)", data, sampling_variance="V").fit()
    assert weeks.is_singular
    assert weeks.converged
    np.testing.assert_allclose(weeks.params, [0.4072, -0.1572], atol=5.1e-5)
    np.testing.assert_allclose(weeks.tvalues, [4.6782, -4.3884], atol=1e-4)


def eight_schools() -> pd.DataFrame:
    about = KNOWN["eight_schools"]["data"]
    return pd.DataFrame({"school": about["school"], "y": np.array(about["y_exact"]), "s": np.array(about["s_exact"])})


@pytest.mark.parametrize("tau", [0.0, 3.0, 10.0])
def test_eight_schools_with_all_variances_known_is_one_solve(tau: float) -> None:
    data = eight_schools().assign(v=lambda d: d["s"] ** 2)
    fit = hlm.Model("y ~ 1 + (1 | school)", data, sampling_variance="v").fit(fixed={"school": tau**2})
    assert len(fit.trace) == 1
    assert fit._criterion.evaluations <= 4, "no iterations"
    assert fit.converged
    assert fit.df_model == 1
    assert not fit.is_singular
    precision = 1 / (data["v"] + tau**2)
    mu = (precision * data["y"]).sum() / precision.sum()
    assert fit.params.iloc[0] == pytest.approx(mu, rel=1e-12)
    assert fit.bse.iloc[0] == pytest.approx(precision.sum() ** -0.5, rel=1e-12)
    shrunk = tau**2 * precision * (data["y"] - mu)
    np.testing.assert_allclose(fit.random_effects["school"]["Intercept"], shrunk, rtol=1e-10, atol=1e-12)
    if tau == 0:
        assert mu == pytest.approx(7.870546, abs=5e-7), "as printed"
    else:  # Var(u - û), the uncertainty of γ̂ with it
        variance = tau**2 - tau**4 * precision + (tau**2 * precision) ** 2 / precision.sum()
        np.testing.assert_allclose(fit.random_effects_cov["school"][:, 0, 0], variance, rtol=1e-10)


def test_weights_with_sigma_one_are_sampling_variances() -> None:
    data = eight_schools().assign(w=lambda d: 1 / d["s"] ** 2, v=lambda d: d["s"] ** 2)
    known = hlm.Model("y ~ 1 + (1 | school)", data, sampling_variance="v").fit(reml=False)
    same = hlm.Model("y ~ 1 + (1 | school)", data, weights="w").fit(reml=False, fixed={"sigma": 1})
    assert same.criterion == pytest.approx(known.criterion, abs=1e-12)
    model = hlm.Model("y ~ 1 + (1 | school)", data, weights="w")
    with pytest.raises(hlm.DesignError, match=r"as many levels \(8\) as rows"):
        model.fit()
    with pytest.raises(hlm.DataError, match="sigma is 1 where sampling variances are known"):
        hlm.Model("y ~ 1 + (1 | school)", data, sampling_variance="v").fit(fixed={"sigma": 2})
    with pytest.raises(hlm.DataError, match="give one of them"):
        hlm.Model("y ~ 1 + (1 | school)", data, sampling_variance="v", weights="w")
    with pytest.raises(hlm.DataError, match=r"must be > 0; row 3 has 0"):
        hlm.Model("y ~ 1 + (1 | school)", data, sampling_variance=np.where(np.arange(8) == 3, 0.0, 1.0))


# ---- constraints against dense algebra ------------------------------------------------------------------------------

J = 20
CODES = np.repeat(np.arange(J), 5)
TOP = CODES // 4
N = len(CODES)
RNG = np.random.default_rng(3)
Z = np.column_stack([np.ones(N), RNG.normal(size=(N, 2))])
X = np.column_stack([np.ones(N), RNG.normal(size=(N, 3))])
L = np.array([[1, 0, 0], [0.5, 0.8, 0], [-0.3, 0.2, 0.6]])
Y = X @ [1.0, 2.0, 2.5, 0.0] + (Z * (RNG.normal(size=(J, 3)) @ L.T)[CODES]).sum(axis=1)
Y = Y + RNG.normal(size=5)[TOP] + RNG.normal(size=N)
ONE = np.ones((N, 1))
MODEL = hlm.Model.from_arrays(
    Y, X, [hlm.Random(CODES, Z, name="g", effects=["a", "b", "c"]), hlm.Random(TOP, name="t")]
)


def T_of(x: np.ndarray) -> np.ndarray:
    lower = np.zeros((3, 3))
    lower[np.tril_indices(3)] = x[:6]
    return lower @ lower.T


# what is asked for; the same as functions of (lower triangle, sd of t, sigma) that must be zero
ASKED: dict[str, tuple[dict[str, Any], list[Any]]] = {
    "variance": ({"fixed": {"g": {"a": 1.0}}}, [lambda x: T_of(x)[0, 0] - 1]),
    "zero covariance": ({"fixed": {"g": {("a", "b"): 0.0}}}, [lambda x: T_of(x)[0, 1]]),
    "two zero covariances": (
        {"fixed": {"g": {("a", "c"): 0.0, ("c", "b"): 0}}},
        [lambda x: T_of(x)[0, 2], lambda x: T_of(x)[1, 2]],
    ),
    "covariance": ({"fixed": {"g": {("a", "b"): 0.3}}}, [lambda x: T_of(x)[0, 1] - 0.3]),
    "equal variances": ({"constraints": "var(a | g) = var(b|g)"}, [lambda x: T_of(x)[0, 0] - T_of(x)[1, 1]]),
    "over factors": ({"constraints": ["var(a | g) = 2*var(t)"]}, [lambda x: T_of(x)[0, 0] - 2 * x[6] ** 2]),
    "all equal": (
        {"constraints": "var(a | g) = var(t) = var(b | g); var(c | g) = var(t)"},
        [lambda x, i=i: T_of(x)[i, i] - x[6] ** 2 for i in range(3)],
    ),
    "ratio to sigma2": ({"constraints": "var(t) = sigma2/2"}, [lambda x: x[6] ** 2 - 0.5 * x[7] ** 2]),
    "ratio and value": (
        {"constraints": "var(t) = 0.5*sigma2", "fixed": {"g": {"c": 0.5}}},
        [lambda x: x[6] ** 2 - 0.5 * x[7] ** 2, lambda x: T_of(x)[2, 2] - 0.5],
    ),
    "sum": (
        {"constraints": "var(a | g) + var(b | g) + sigma2 = 3"},
        [lambda x: T_of(x)[0, 0] + T_of(x)[1, 1] + x[7] ** 2 - 3],
    ),
    "equal covariances": (
        {"constraints": "cov(a, b | g) = cov(c, a | g)"},
        [lambda x: T_of(x)[0, 1] - T_of(x)[0, 2]],
    ),
    "sigma": ({"fixed": {"sigma": 0.9}}, [lambda x: x[7] - 0.9]),
    "a whole T": ({"fixed": {"t": 2.0}}, [lambda x: x[6] ** 2 - 2]),
    "NaN is free": (
        {"fixed": {"g": [[1, 0.2, np.nan], [0.2, np.nan, np.nan], [np.nan, np.nan, np.nan]]}},
        [lambda x: T_of(x)[0, 0] - 1, lambda x: T_of(x)[0, 1] - 0.2],
    ),
}


def dense_parts(fit: hlm.Fit) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    return [(Z, CODES, fit.covariances["g"].to_numpy()), (ONE, TOP, fit.covariances["t"].to_numpy())]


@pytest.mark.parametrize("asked", ASKED)
@methods
def test_constrained_variances_are_the_best_that_keep_the_constraint(asked: str, reml: bool) -> None:
    options, conditions = ASKED[asked]
    fit = MODEL.fit(reml=reml, **options)
    assert fit.converged, fit.certificate
    assert not fit.is_singular
    assert fit.df_model == 12 - len(conditions)
    T = fit.covariances["g"].to_numpy()
    at = np.append(np.linalg.cholesky(T)[np.tril_indices(3)], [np.sqrt(fit.covariances["t"].iloc[0, 0]), fit.sigma])
    for condition in conditions:
        assert abs(condition(at)) < 1e-10
    assert fit.criterion == pytest.approx(criterion_at(Y, X, dense_parts(fit), fit.sigma**2, reml), abs=1e-9)

    def dense(x: np.ndarray) -> float:
        parts = [(Z, CODES, T_of(x)), (ONE, TOP, np.array([[x[6] ** 2]]))]
        return criterion_at(Y, X, parts, x[7] ** 2 + 1e-12, reml)

    equal = [{"type": "eq", "fun": condition} for condition in conditions]
    start = np.append(L[np.tril_indices(3)], [1.0, 1.0])
    best = minimize(dense, start, method="SLSQP", constraints=equal, options={"maxiter": 500, "ftol": 1e-12})
    # SLSQP keeps its constraints to about 1e-7 only
    assert fit.criterion == pytest.approx(best.fun, abs=1e-5)
    fisher = MODEL.fit(reml=reml, method="fisher", **options)
    assert fisher.criterion == pytest.approx(fit.criterion, abs=1e-8)
    assert "held: " in str(fit)


@pytest.mark.parametrize("asked", ASKED)
@methods
@pytest.mark.parametrize("information", ["observed", "average", "expected"])
def test_derivatives_along_the_constraints(asked: str, reml: bool, information: str) -> None:
    options, _ = ASKED[asked]
    fit = MODEL.fit(reml=reml, **options)
    criterion, space = fit._criterion, fit._problem.variances
    x = space.project(fit._point + 0.2 * np.random.default_rng(0).normal(size=space.size))
    criterion.value(x)
    gradient, hessian = criterion.derivatives(information)
    assert len(gradient) == space.m
    np.testing.assert_allclose(hessian, hessian.T, rtol=1e-9, atol=1e-9 * np.abs(hessian).max())

    def value(step: np.ndarray) -> float:
        return float(criterion.value(space.move(x, step)))

    unit, h = np.eye(space.m), 1e-5
    slopes = np.array([(value(h * e) - value(-h * e)) / (2 * h) for e in unit])
    np.testing.assert_allclose(gradient, slopes, rtol=1e-6, atol=1e-6 * np.abs(gradient).max())
    if information != "observed":
        return
    h = 1e-3
    second = [
        [value(h * (a + b)) - value(h * (a - b)) - value(h * (b - a)) + value(-h * (a + b)) for a in unit] for b in unit
    ]
    np.testing.assert_allclose(hessian, np.array(second) / (4 * h * h), atol=2e-4 * np.abs(hessian).max())


@methods
def test_an_effect_without_variance_is_left_out(reml: bool) -> None:
    fit = MODEL.fit(reml=reml, fixed={"g": {"b": 0}})
    without = hlm.Model.from_arrays(
        Y, X, [hlm.Random(CODES, Z[:, [0, 2]], name="g", effects=["a", "c"]), hlm.Random(TOP, name="t")]
    ).fit(reml=reml)
    assert fit.criterion == pytest.approx(without.criterion, abs=1e-9)
    assert fit.df_model == without.df_model
    assert not fit.is_singular
    assert fit.flat_directions == {}
    assert fit.covariances["g"].loc["b"].abs().max() == 0


@methods
def test_equal_variances_may_both_be_zero(reml: bool) -> None:
    rng = np.random.default_rng(11)
    random = [hlm.Random(CODES, name="g"), hlm.Random(TOP, name="t")]
    singular = 0
    for _ in range(8):
        fit = hlm.Model.from_arrays(rng.normal(size=N), ONE, random).fit(reml=reml, constraints="var(g) = var(t)")
        assert fit.converged
        assert fit.is_singular == (fit.covariances["g"].iloc[0, 0] < 1e-9)
        singular += fit.is_singular
    assert singular >= 2


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_units_of_known_values(scale: float) -> None:
    plain = MODEL.fit(fixed={"g": {"a": 1.0, ("a", "b"): 0.3}, "x1": 1.5})
    random = [
        hlm.Random(CODES, Z * [1, scale, 1], name="g", effects=["a", "b", "c"]),
        hlm.Random(TOP, name="t"),
    ]
    columns = X * [1, 1 / scale, 1, 1]
    scaled = hlm.Model.from_arrays(scale * Y, columns, random).fit(
        fixed={"g": {"a": scale**2, ("a", "b"): 0.3 * scale}, "x1": 1.5 * scale**2}
    )
    assert scaled.criterion - 2 * (N - 3) * np.log(scale) == pytest.approx(plain.criterion, abs=1e-7)
    unit = np.array([scale, 1.0, scale])
    np.testing.assert_allclose(scaled.covariances["g"], plain.covariances["g"] * np.outer(unit, unit), rtol=1e-5)
    assert scaled.params["x1"] == 1.5 * scale**2


# ---- fixed effects --------------------------------------------------------------------------------------------------


@methods
@pytest.mark.parametrize(
    ("options", "columns", "offset"),
    [
        ({"fixed": {"x1": 2.0}}, lambda: X[:, [0, 2, 3]], lambda: 2 * X[:, 1]),
        ({"fixed": {"params": {"x1": 2.0}}}, lambda: X[:, [0, 2, 3]], lambda: 2 * X[:, 1]),
        ({"constraints": "x1 = x2"}, lambda: np.column_stack([X[:, 0], X[:, 1] + X[:, 2], X[:, 3]]), lambda: 0.0),
        (
            {"constraints": "2*x1 + x3 = 1"},
            lambda: np.column_stack([X[:, 0], X[:, 2], X[:, 3] - X[:, 1] / 2]),
            lambda: X[:, 1] / 2,
        ),
        (
            {"constraints": (pd.DataFrame({"x1": [2.0], "x3": [1.0]}), [1.0])},
            lambda: np.column_stack([X[:, 0], X[:, 2], X[:, 3] - X[:, 1] / 2]),
            lambda: X[:, 1] / 2,
        ),
        (
            {"constraints": [([[0, 1, -1, 0]], 0), "x3 = 0.25"]},
            lambda: np.column_stack([X[:, 0], X[:, 1] + X[:, 2]]),
            lambda: 0.25 * X[:, 3],
        ),
        (
            {"fixed": {"Intercept": 1, "x1": 2, "x2": 2.5, "x3": 0}},
            lambda: np.zeros((N, 0)),
            lambda: X @ [1, 2, 2.5, 0],
        ),
    ],
)
def test_constrained_fixed_effects_are_the_substituted_model(options, columns, offset, reml) -> None:  # type: ignore[no-untyped-def]
    fit = MODEL.fit(reml=reml, **options)
    assert fit.converged
    left, right = columns(), Y - offset()
    random = [hlm.Random(CODES, Z, name="g", effects=["a", "b", "c"]), hlm.Random(TOP, name="t")]
    same = hlm.Model.from_arrays(right, left, random).fit(reml=reml)
    assert fit.criterion == pytest.approx(same.criterion, abs=1e-9)
    assert fit.df_model == same.df_model
    assert fit.df_resid == same.df_resid
    for name in ("g", "t"):
        np.testing.assert_allclose(fit.covariances[name], same.covariances[name], rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(fit.random_effects[name], same.random_effects[name], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(fit.random_effects_cov[name], same.random_effects_cov[name], rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(fit.resid, same.resid, rtol=1e-6, atol=1e-6)
    # γ and its covariance from those of the substituted columns: X γ = offset + columns δ
    N_map = np.linalg.lstsq(X, left, rcond=None)[0]
    np.testing.assert_allclose(fit.cov_params(), N_map @ same.cov_params() @ N_map.T, atol=1e-9)
    shift = np.linalg.lstsq(X, Y - right, rcond=None)[0]
    np.testing.assert_allclose(fit.params, shift + N_map @ same.params, rtol=1e-7, atol=1e-8)


def test_known_fixed_effects_have_no_error() -> None:
    fit = MODEL.fit(fixed={"x1": 2.0})
    assert fit.params["x1"] == 2.0
    assert fit.bse["x1"] == 0
    assert np.isnan(fit.tvalues["x1"])
    assert np.isnan(fit.pvalues["x1"])
    assert list(fit.conf_int().loc["x1"]) == [2.0, 2.0]
    assert (fit.cov_params().loc["x1"] == 0).all()
    assert "known" in str(fit)
    assert fit.restrictions == ["x1 = 2"]


def test_everything_known_is_generalised_least_squares() -> None:
    T = np.array([[1.0, 0.4, 0.0], [0.4, 0.8, 0.1], [0.0, 0.1, 0.5]])
    table = pd.DataFrame(T, index=["a", "b", "c"], columns=["a", "b", "c"]).loc[["c", "a", "b"], ["b", "c", "a"]]
    fit = MODEL.fit(fixed={"g": table, "t": 1.5, "sigma": 1.1})
    assert len(fit.trace) == 1
    assert fit.df_model == 4
    V = 1.21 * np.eye(N) + (Z @ T @ Z.T) * (CODES[:, None] == CODES) + 1.5 * (TOP[:, None] == TOP)
    inverse = np.linalg.inv(V)
    cov = np.linalg.inv(X.T @ inverse @ X)
    beta = cov @ X.T @ inverse @ Y
    np.testing.assert_allclose(fit.params, beta, rtol=1e-10)
    np.testing.assert_allclose(fit.cov_params(), cov, rtol=1e-9)
    np.testing.assert_allclose(fit.covariances["g"], T, rtol=1e-12, atol=1e-14)
    residual = inverse @ (Y - X @ beta)
    u = np.array([T @ Z[j == CODES].T @ residual[j == CODES] for j in range(J)])
    np.testing.assert_allclose(fit.random_effects["g"], u, rtol=1e-8, atol=1e-10)
    singular = MODEL.fit(fixed={"g": np.outer([1, 2, 3], [1, 2, 3]), "t": 0, "sigma": 1.1})
    assert not singular.is_singular
    np.testing.assert_allclose(singular.covariances["g"], np.outer([1, 2, 3], [1, 2, 3]), rtol=1e-7)


# ---- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fixed": {"x9": 1}}, "no parameter 'x9'"),
        ({"fixed": {"x1": "two"}}, "fixed 'x1' must be a number"),
        ({"fixed": {"x1": np.nan}}, "fixed 'x1' must be finite"),
        ({"fixed": {"sigma": 0}}, "'sigma' must be > 0"),
        ({"fixed": {"g": 1.0}}, "3 random effects"),
        ({"fixed": {"g": {"z": 1.0}}}, "no random effect 'z'"),
        ({"fixed": {"g": {"a": -1.0}}}, r"var\(a \| g\) cannot be -1"),
        ({"fixed": {"g": {("a", "b"): 1.0, ("b", "a"): 1.0}}}, "is given twice"),
        ({"fixed": {"g": np.eye(2)}}, r"must be \(3, 3\)"),
        ({"fixed": {"g": np.diag([1.0, 2.0, -1.0])}}, "not positive semidefinite"),
        ({"fixed": {"g": np.array([[1, 2, 0], [2, 1, 0], [0, 0, 1.0]])}}, "'g' is not positive semidefinite"),
        ({"fixed": {"g": np.array([[1, 2, 0], [0, 9, 0], [0, 0, 1.0]])}}, "is not symmetric: 2 and 0 for a and b"),
        ({"fixed": {"g": {"a": 1.0, "b": 1.0, ("a", "b"): 1.5}}}, r"cov\(b, a \| g\) = 1.5 is more than"),
        ({"fixed": {"g": {"a": 0.0, ("a", "b"): 0.5}}}, r"cov\(b, a \| g\) = 0.5 is more than"),
        ({"fixed": [1]}, "fixed must be a mapping"),
        ({"fixed": {"params": 1}}, "'params' must be a mapping"),
        ({"fixed": {"params": {"g": 1}}}, "no 'g'"),
        ({"fixed": {"x1": 1}, "constraints": "x1 = 2"}, "'x1 = 2' contradicts x1 = 1"),
        ({"constraints": ["x1 = x2", "x2 = x1"]}, "'x2 = x1' is redundant: it follows from 'x1 = x2'"),
        ({"constraints": ["x1 = x2", "x2 = x3", "x1 - x3 = 1"]}, "contradicts"),
        ({"constraints": "x1 = x1"}, "leaves no parameter"),
        ({"constraints": "x1*x2 = 1"}, "is not linear"),
        ({"constraints": "x1 = 1/0"}, "divides by zero"),
        ({"constraints": "x1"}, "has no '='"),
        ({"constraints": "x11 = 1"}, "no parameter 'x11'"),
        ({"constraints": "x1 = 1e999999999"}, "the number 1e999999999 is too large"),
        ({"constraints": "1e-300*x1 = 1"}, "the number 1e-300 is too large or too small"),
        ({"constraints": ["1e140*x1 = x2", "x3 = 1e140*x2"]}, "numbers too large or too small"),
        ({"constraints": "x1 > 3"}, "cannot read '>3'"),
        ({"fixed": {"x1": 1e30}}, "nothing is left of it"),
        ({"fixed": {"g": 1j * np.eye(3)}}, "'g' must be numbers"),
        ({"fixed": {"g": [[1.0], [1.0, 2.0]]}}, "'g' must be numbers"),
        ({"constraints": "__import__('os') = 1"}, "no parameter '__import__'"),
        ({"constraints": "(x1 = 1"}, "a parenthesis is not closed"),
        ({"constraints": "(" * 500 + "x1" + ")" * 500 + " = 1"}, "more than 50"),
        ({"constraints": "x1 = var(t)"}, "mixes fixed effects and variances"),
        ({"constraints": "var(t) = -sigma2"}, "negative"),
        ({"constraints": "var(t) = -var(a|g)"}, "opposite signs"),
        ({"constraints": ["var(t) = 2*sigma2", "var(t) = 4"], "fixed": {"sigma": 1}}, "contradicts"),
        ({"constraints": "var(a|g) + var(b|g) = -1"}, "no positive semidefinite"),
        ({"constraints": 5}, "constraints must be texts"),
        ({"constraints": [5]}, "a constraint is a text or a pair"),
        ({"constraints": [([[1, 2]], [1])]}, "R must have 4 columns"),
        ({"constraints": [([[0, 0, 0, 0]], [1])]}, "row 0 of R is zero"),
    ],
)
def test_what_cannot_be_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(hlm.HLMError, match=message):
        MODEL.fit(**options)


def test_names_that_mean_several_things() -> None:
    data = pd.DataFrame({"y": Y, "sigma": X[:, 1], "g": CODES.astype(float), "x:1": X[:, 2]})
    model = hlm.Model("y ~ sigma + g + `x:1` + (1 | g)", data)
    for name in ("sigma", "g"):
        with pytest.raises(hlm.DataError, match=f"'{name}' may mean several"):
            model.fit(fixed={name: 1.0})
    fit = model.fit(fixed={"params": {"sigma": 2.0}, "covariances": {"g": 1.0}}, constraints="x:1 = 2.5")
    assert fit.params["sigma"] == 2.0
    assert fit.params["x:1"] == 2.5
    assert fit.covariances["g"].iloc[0, 0] == pytest.approx(1.0, rel=1e-12)


def test_structures_and_known_values_together() -> None:
    model = hlm.Model.from_arrays(Y, X, [hlm.Random(CODES, Z, name="g", effects=["a", "b", "c"], covariance="cs")])
    fit = model.fit(fixed={"g": {("a", "b"): 0.2}})
    T = fit.covariances["g"].to_numpy()
    assert T[0, 1] == pytest.approx(0.2, rel=1e-10)
    assert T[0, 2] == pytest.approx(0.2, rel=1e-10)
    assert T[0, 0] == pytest.approx(T[2, 2], rel=1e-10)
    assert fit.converged
    assert fit.df_model == 4 + 1 + 1
    whole = model.fit(fixed={"g": np.eye(3) + 1})
    np.testing.assert_allclose(whole.covariances["g"], np.eye(3) + 1, rtol=1e-12)
    with pytest.raises(hlm.DesignError, match="does not have the structure 'cs'"):
        model.fit(fixed={"g": np.diag([1.0, 2.0, 3.0])})
    with pytest.raises(hlm.DataError, match="redundant"):
        model.fit(fixed={"g": {"a": 1.0, "b": 1.0}})
    with pytest.raises(hlm.DataError, match="no positive semidefinite"):
        model.fit(fixed={"g": {"a": 1.0, "b": 2.0}})


def test_effects_of_different_terms_have_no_covariance() -> None:
    model = hlm.Model.from_arrays(Y, X, [hlm.Random(CODES, Z, name="g", effects=["a", "b", "c"], correlated=False)])
    with pytest.raises(hlm.DataError, match="its effects belong to different terms"):
        model.fit(fixed={"g": {("a", "b"): 0.5}})
    with pytest.raises(hlm.DataError, match="its effects belong to different terms"):
        model.fit(constraints="cov(a, b | g) = 0.1")
    fit = model.fit(fixed={"g": np.diag([1.0, 0.5, np.nan]) * np.where(np.eye(3) == 1, 1.0, 1.0)})
    np.testing.assert_allclose(np.diag(fit.covariances["g"])[:2], [1.0, 0.5], rtol=1e-12)


def test_constraints_need_independent_columns() -> None:
    columns = np.column_stack([X, X[:, 1] + X[:, 2]])
    model = hlm.Model.from_arrays(Y, columns, [hlm.Random(CODES, name="g")])
    with pytest.warns(hlm.RankDeficientWarning):
        model.fit()
    with pytest.raises(hlm.DataError, match="'x4' is aliased"):
        model.fit(fixed={"x1": 1.0})
