"""What a Fit says, against dense algebra; the door of arrays; methods; boundaries; errors."""

import gc
import weakref

import numpy as np
import pandas as pd
import pytest

import hlm

from .dense import CROSSED, STRUCTURES, make_case, make_crossed, structure


def fitted(name: str, **options: object) -> tuple[object, hlm.Fit]:
    case = make_case(STRUCTURES[name][0], STRUCTURES[name][1], seed=3, tops=25, most=4)
    return case, case.model().fit(**options)


@pytest.mark.parametrize("name", [name for name in STRUCTURES if name not in ("wide", "six nested")])
@pytest.mark.parametrize("reml", [True, False], ids=["REML", "ML"])
def test_fit_against_dense_algebra(name: str, reml: bool) -> None:
    case, fit = fitted(name, reml=reml)
    assert fit.converged, fit.certificate
    theta = fit.theta.to_numpy()
    assert fit.criterion == pytest.approx(case.criterion(theta, reml), abs=1e-7)
    inverse = np.linalg.inv(case.covariance(theta))
    cross = case.X.T @ inverse @ case.X
    beta = np.linalg.solve(cross, case.X.T @ inverse @ case.y) if len(cross) else np.zeros(0)
    residual = case.y - case.X @ beta
    sigma2 = residual @ inverse @ residual / (len(case.y) - (len(beta) if reml else 0))
    np.testing.assert_allclose(fit.params, beta, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(fit.cov_params(), sigma2 * np.linalg.inv(cross), rtol=1e-7)
    assert fit.sigma == pytest.approx(np.sqrt(sigma2), rel=1e-9)
    for beta_known in (True, False):
        modes, covariances = case.posterior(theta, beta_known)
        got = fit.conditional_covariances(beta_known=beta_known)
        for k, L in enumerate(case.factors(theta)):
            np.testing.assert_allclose(fit.covariances[f"f{k}"], sigma2 * L @ L.T, rtol=1e-8, atol=1e-10)
            np.testing.assert_allclose(fit.random_effects[f"f{k}"], modes[k], rtol=1e-6, atol=1e-8)
            np.testing.assert_allclose(got[f"f{k}"], sigma2 * covariances[k], rtol=1e-6, atol=1e-8)
    expected = case.X @ beta + sum(
        (Z * m[c]).sum(axis=1) for Z, m, c in zip(case.Z, case.posterior(theta, True)[0], case.codes, strict=True)
    )
    np.testing.assert_allclose(fit.fittedvalues, expected, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(fit.resid + fit.fittedvalues, case.y, rtol=1e-12)
    np.testing.assert_allclose(fit.predict(), fit.fittedvalues, rtol=1e-12)


@pytest.mark.parametrize("name", ["intercept", "slope", "two nested", "three nested"])
@pytest.mark.parametrize("reml", [True, False], ids=["REML", "ML"])
@pytest.mark.parametrize("method", ["fisher", "em", "ecme", "em squarem", "ecme squarem"])
def test_methods_find_the_same_optimum(name: str, reml: bool, method: str) -> None:
    case = make_case(STRUCTURES[name][0], STRUCTURES[name][1], seed=3, tops=25, most=5)
    newton = case.model().fit(reml=reml)
    other = case.model().fit(reml=reml, method=method.split()[0], accelerate="squarem" in method)
    assert abs(other.criterion - newton.criterion) < 1e-6
    values = other.trace["criterion"].to_numpy()
    if method != "fisher":
        assert (np.diff(values) <= 1e-11 * abs(values[0])).all(), "an EM step raised the criterion"


def test_without_random_effects_it_is_ols() -> None:
    rng = np.random.default_rng(0)
    X = np.column_stack([np.ones(50), rng.normal(size=(50, 2))])
    y = X @ [1.0, 2.0, 3.0] + rng.normal(size=50)
    fit = hlm.Model.from_arrays(y, X).fit()
    beta, rss = np.linalg.lstsq(X, y, rcond=None)[:2]
    np.testing.assert_allclose(fit.params, beta, rtol=1e-12)
    assert fit.sigma**2 == pytest.approx(rss[0] / 47, rel=1e-12)
    np.testing.assert_allclose(fit.cov_params(), rss[0] / 47 * np.linalg.inv(X.T @ X), rtol=1e-10)
    ml = hlm.Model.from_arrays(y, X).fit(reml=False)
    assert ml.llf == pytest.approx(-25 * (1 + np.log(2 * np.pi * rss[0] / 50)), rel=1e-12)
    assert ml.converged
    assert not ml.is_singular
    assert "OLS" not in str(ml)
    assert "residual" in str(ml)


def balanced_anova(between: float, seed: int = 0, J: int = 12, n: int = 6) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(J), n)
    return between * rng.normal(size=J)[groups] + rng.normal(size=J * n), groups


@pytest.mark.parametrize("method", ["newton", "fisher", "ecme"])
def test_balanced_one_way_closed_form(method: str) -> None:
    y, groups = balanced_anova(1.5)
    table = pd.DataFrame({"y": y, "g": groups}).groupby("g")["y"]
    within = (table.var() * 5).sum() / 60
    between = 6 * table.mean().var()
    fit = hlm.Model.from_arrays(y, np.ones((72, 1)), [hlm.Random(groups)]).fit(method=method)
    assert fit.sigma**2 == pytest.approx(within, rel=1e-6 if method == "ecme" else 1e-10)
    assert fit.covariances["g"].iloc[0, 0] == pytest.approx(
        (between - within) / 6, rel=1e-4 if method == "ecme" else 1e-8
    )


def test_negative_anova_estimate_is_a_singular_fit() -> None:
    y, groups = balanced_anova(0.0, seed=4)
    table = pd.DataFrame({"y": y, "g": groups}).groupby("g")["y"]
    assert 6 * table.mean().var() < (table.var() * 5).sum() / 60, "the case must have a negative ANOVA estimate"
    fit = hlm.Model.from_arrays(y, np.ones((72, 1)), [hlm.Random(groups, name="batch")]).fit()
    assert fit.is_singular
    assert fit.converged
    assert fit.covariances["batch"].iloc[0, 0] == 0
    assert fit.sigma == pytest.approx(y.std(ddof=1), rel=1e-12)
    assert fit.flat_directions == {"batch": ["Intercept"]}
    assert "no variance between levels of 'batch'" in str(fit)


def test_perfect_correlation_is_singular_and_its_direction_is_named() -> None:
    rng = np.random.default_rng(1)
    groups = np.repeat(np.arange(30), 8)
    x = rng.normal(size=240)
    u = rng.normal(size=30)
    y = u[groups] * (1 + 2 * x) + 2.0 * rng.normal(size=240)
    Z = np.column_stack([np.ones(240), x])
    found = []
    for seed in range(6):
        noise = np.random.default_rng(seed).normal(size=240)
        fit = hlm.Model.from_arrays(y + noise, Z, [hlm.Random(groups, Z, effects=["a", "b"])]).fit()
        assert fit.converged
        if fit.is_singular:
            found.append(fit)
            T = fit.covariances["g"].to_numpy()
            assert abs(T[0, 1] / np.sqrt(T[0, 0] * T[1, 1])) == pytest.approx(1, abs=1e-12)
            assert "·a" in fit.flat_directions["g"][0]
            assert "·b" in fit.flat_directions["g"][0]
    assert found, "one of the cases must be singular"


def test_diagonal_terms_have_no_covariance() -> None:
    case = structure("slope", seed=8)
    fit = hlm.Model.from_arrays(case.y, case.X, [hlm.Random(case.codes[0], case.Z[0], correlated=False)]).fit()
    T = fit.covariances["g"].to_numpy()
    assert T[0, 1] == T[1, 0] == 0
    assert list(fit.theta.index) == ["g.Intercept", "g.z1"]
    terms = [hlm.Random(case.codes[0], case.Z[0][:, j], effects=[f"e{j}"]) for j in range(2)]
    assert hlm.Model.from_arrays(case.y, case.X, terms).fit().criterion == pytest.approx(fit.criterion, abs=1e-9)


def test_weights_are_those_of_dense_algebra() -> None:
    case = structure("slope", seed=2)
    rng = np.random.default_rng(0)
    weights = rng.uniform(0.5, 3, len(case.y))
    fit = hlm.Model.from_arrays(case.y, case.X, [hlm.Random(case.codes[0], case.Z[0])], weights=weights).fit()
    root = np.sqrt(weights)
    scaled = hlm.Model.from_arrays(
        case.y * root, case.X * root[:, None], [hlm.Random(case.codes[0], case.Z[0] * root[:, None])]
    ).fit()
    assert fit.criterion == pytest.approx(scaled.criterion - np.log(weights).sum(), abs=1e-8)
    np.testing.assert_allclose(fit.params, scaled.params, rtol=1e-6)


def test_aliased_columns_are_named_and_nan() -> None:
    case = structure("slope", seed=2)
    X = np.column_stack([case.X, case.X[:, 1] - 2 * case.X[:, 2], case.X[:, 1] * 1e6])
    model = hlm.Model.from_arrays(case.y, X, [hlm.Random(case.codes[0])], names=["c", "a", "b", "a-2b", "Ma"])
    with pytest.warns(hlm.RankDeficientWarning, match="'a-2b', 'Ma' are combinations of earlier columns"):
        fit = model.fit()
    plain = hlm.Model.from_arrays(case.y, case.X, [hlm.Random(case.codes[0])]).fit()
    assert fit.aliased == ["a-2b", "Ma"]
    assert fit.params.isna().tolist() == [False, False, False, True, True]
    assert fit.criterion == pytest.approx(plain.criterion, abs=1e-9)
    np.testing.assert_allclose(fit.fittedvalues, plain.fittedvalues, rtol=1e-9)
    assert fit.cov_params().shape == (3, 3)
    assert "aliased with earlier columns, not estimated: a-2b, Ma" in str(fit)
    model.fit(reml=False)  # the model has said it once


def test_constant_that_earlier_columns_add_up_to() -> None:
    """Dummies of all categories, then a constant column: the constant is dropped, and the shift of y is not lost."""
    case = structure("intercept", seed=2)
    n = len(case.y)
    half = (np.arange(n) % 2).astype(float)
    X = np.column_stack([half, 1 - half, np.ones(n), case.Z[0][:, 0] * np.arange(n)])
    with pytest.warns(hlm.RankDeficientWarning, match="'x2' is a linear combination"):
        fit = hlm.Model.from_arrays(case.y + 1e4, X, [hlm.Random(case.codes[0])]).fit()
    plain = hlm.Model.from_arrays(case.y + 1e4, X[:, [0, 1, 3]], [hlm.Random(case.codes[0])]).fit()
    assert fit.aliased == ["x2"]
    np.testing.assert_allclose(fit.params.dropna(), plain.params, rtol=1e-9)
    assert fit.criterion == pytest.approx(plain.criterion, abs=1e-7)


def test_predict_from_arrays() -> None:
    case, fit = fitted("two nested")
    rows = np.arange(5)
    new = (
        case.X[rows],
        [hlm.Random(c[rows], Z[rows], f"f{k}") for k, (c, Z) in enumerate(zip(case.codes, case.Z, strict=True))],
    )
    np.testing.assert_allclose(fit.predict(new), fit.fittedvalues[:5], rtol=1e-12)
    np.testing.assert_allclose(fit.predict(new, effects="population"), case.X[rows] @ fit.params, rtol=1e-12)
    top = fit.predict(new, effects=["f1"])
    modes = fit.random_effects["f1"].to_numpy()
    np.testing.assert_allclose(
        top, case.X[rows] @ fit.params + (case.Z[1][rows] * modes[case.codes[1][rows]]).sum(axis=1)
    )
    unknown = (new[0], [hlm.Random(np.full(5, 10**6), case.Z[0][rows], "f0"), new[1][1]])
    with pytest.raises(hlm.DataError, match=r"1000000 of 'f0' \(row 0\)"):
        fit.predict(unknown)
    np.testing.assert_allclose(fit.predict(unknown, new_levels="population"), top)
    assert fit.predict(unknown, new_levels="nan").isna().all()
    with pytest.raises(hlm.DataError, match="new_levels"):
        fit.predict(unknown, new_levels="guess")
    with pytest.raises(hlm.DesignError, match="no grouping factor 'class'"):
        fit.predict(new, effects=["class"])


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda a: a.update(y=a["y"][:-1]), hlm.DataError, "X has 60 rows, y has 59"),
        (lambda a: a["y"].__setitem__(7, np.inf), hlm.DataError, r"column 'y' has 1 infinite value \(row 7\)"),
        (lambda a: a["X"].__setitem__((4, 1), np.nan), hlm.DataError, r"column 'x1' has 1 missing value \(row 4\)"),
        (lambda a: a.update(y=a["y"].astype(str)), hlm.DataTypeError, "y must be numeric"),
        (lambda a: a.update(codes=np.zeros(60, int)), hlm.DesignError, "has 1 level; at least 2"),
        (lambda a: a.update(codes=np.arange(60)), hlm.DesignError, r"as many levels \(60\) as rows"),
        (lambda a: a.update(codes=np.arange(60) // 2), hlm.DesignError, "60 random effects for 60 rows"),
        (lambda a: a.update(codes=a["codes"][:5]), hlm.DataError, "codes of 'g' must be"),
        (lambda a: a.update(weights=-np.ones(60)), hlm.DataError, "weights must be >= 0; row 0 has -1"),
        (lambda a: a.update(weights=np.ones(59)), hlm.DataError, "weights has length 59, data has 60 rows"),
        (lambda a: a.update(y=np.ones(60)), hlm.DegenerateError, "response 'y' is constant"),
        (lambda a: a.update(X=np.ones((60, 60))), hlm.DataError, "no residual degrees of freedom"),
        (lambda a: a.update(names=["a"]), hlm.DataError, "X has 2 columns but 1 names"),
    ],
)
def test_errors_name_what_is_wrong(change: object, error: type[Exception], message: str) -> None:
    rng = np.random.default_rng(0)
    X = np.column_stack([np.ones(60), rng.normal(size=60)])
    a = {"y": rng.normal(size=60), "X": X, "codes": np.arange(60) // 5, "weights": None, "names": None}
    change(a)
    random = [hlm.Random(a["codes"], np.asarray(a["X"])[:, :2], "g")]
    with pytest.raises(error, match=message):
        hlm.Model.from_arrays(a["y"], a["X"], random, weights=a["weights"], names=a["names"]).fit()


@pytest.mark.parametrize("name", CROSSED)
@pytest.mark.parametrize("reml", [True, False], ids=["REML", "ML"])
def test_crossed_designs_by_every_method(name: str, reml: bool) -> None:
    """Newton, Fisher scoring and ECME end at one optimum, and the criterion is that of dense algebra there."""
    case = structure(name)
    model = case.model()
    fit = model.fit(reml=reml)
    assert fit.converged
    assert fit.criterion == pytest.approx(case.criterion(fit.theta.to_numpy(), reml), rel=1e-11)
    assert model.fit(reml=reml, method="fisher").criterion == pytest.approx(fit.criterion, abs=1e-6)
    em = model.fit(reml=reml, method="ecme", accelerate=True)
    assert em.criterion == pytest.approx(fit.criterion, abs=1e-3 if fit.is_singular else 1e-6)
    modes, covariances = case.posterior(fit.theta.to_numpy(), beta_known=False)
    for k, (mode, covariance) in enumerate(zip(modes, covariances, strict=True)):
        np.testing.assert_allclose(fit.random_effects[f"f{k}"], mode, rtol=1e-6, atol=1e-7)
        got = fit.random_effects_cov[f"f{k}"] / fit.sigma**2
        np.testing.assert_allclose(got, covariance, rtol=1e-6, atol=1e-8)


def test_a_sparse_core_ends_at_the_same_optimum() -> None:
    case = make_crossed([1, 1], [300, 250], 2, 1, 900)
    model = case.model()
    dense, sparse = model.fit(core="dense"), model.fit(core="sparse")
    assert dense.converged
    assert sparse.converged
    assert sparse.criterion == pytest.approx(dense.criterion, abs=1e-8)
    np.testing.assert_allclose(sparse.theta, dense.theta, rtol=1e-5)
    assert model.fit(core="sparse", method="fisher").criterion == pytest.approx(dense.criterion, abs=1e-7)
    with pytest.raises(hlm.DataError, match="core must be one of"):
        model.fit(core="iterative")


def test_numbers_that_start_anew_are_pointed_out() -> None:
    """Class 1 of one school is not class 1 of another; the summary says how to write that."""
    rng = np.random.default_rng(0)
    terms = [hlm.Random(np.arange(60) // 4 % 5, name="class"), hlm.Random(np.arange(60) // 20, name="school")]
    text = hlm.Model.from_arrays(rng.normal(size=60), np.ones((60, 1)), terms).fit().summary()
    assert "crossed: class with school" in text
    assert "(school/class)" in text


def test_response_constant_within_groups_has_no_maximum() -> None:
    y = np.repeat(np.random.default_rng(0).normal(size=10), 5)
    with pytest.raises(hlm.DegenerateError, match="'y' is constant within every level of 'g'"):
        hlm.Model.from_arrays(y, np.ones((50, 1)), [hlm.Random(np.arange(50) // 5)]).fit()


def test_summary_as_text_and_html() -> None:
    _, fit = fitted("two nested")
    text, html = str(fit), fit._repr_html_()
    for word in (
        "Hierarchical linear model",
        "nested: rows in f0 in f1",
        "Certificate",
        "optimal",
        "residual",
        "Intercept",
    ):
        assert word in text
        assert word in html
    assert html.count("<table>") == 3
    assert "<hlm.Fit" in repr(fit)


def test_fit_does_not_change_its_inputs() -> None:
    case = structure("two nested", seed=1)
    copies = [case.y.copy(), case.X.copy(), *(Z.copy() for Z in case.Z), *(c.copy() for c in case.codes)]
    case.model().fit().fittedvalues  # noqa: B018
    for before, after in zip(copies, [case.y, case.X, *case.Z, *case.codes], strict=True):
        np.testing.assert_array_equal(before, after)


def test_trace_is_in_the_users_units() -> None:
    _, fit = fitted("two nested")
    trace = fit.trace
    assert list(trace.columns) == ["criterion", "step", "decrement", *fit.theta.index]
    # the last step of the trace is the estimate
    np.testing.assert_allclose(trace.iloc[-1, 3:].astype(float), fit.theta, rtol=1e-9)
    assert trace["criterion"].iloc[-1] == pytest.approx(fit.criterion, abs=1e-9)
    assert trace.index.name == "iteration"


def test_a_fit_that_is_left_goes_at_once() -> None:
    """Nothing that was asked of it keeps it: data of many fits would wait for the collector of cycles."""
    data = hlm.datasets.load("sleepstudy")
    gc.disable()
    try:
        fit = hlm.Model("Reaction ~ Days + (Days | Subject)", data).fit()
        for method in ("z", "satterthwaite", "kenward-roger", "between-within", "hlm", "CR2"):
            fit.inference(method).table(), fit.summary(method)
        fit.bse, fit.random_effects_cov, fit.equations(), fit.empirical_bayes("Subject"), fit.variance_table()
        fit.ols("Subject"), fit.check(), fit.predict(data, interval="prediction"), fit.influence(), fit._repr_html_()
        left = weakref.ref(fit)
        del fit
        assert left() is None
    finally:
        gc.enable()
