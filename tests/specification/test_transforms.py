"""What the allowed functions compute, against R and against their definitions."""

import numpy as np
import pandas as pd
import pytest

from hlm.errors import DataError
from hlm.specification.columns import encode, evaluate
from hlm.specification.formula import parse
from tests import reference
from tests.specification.examples import Array, build, matrix, rows


def test_functions_mean_what_they_mean_in_r() -> None:
    frame = rows()
    x, z = frame["x"].to_numpy(), frame["z"].to_numpy()
    expected = {
        "I(x^2)": x**2,
        "I(x**2 / 2)": x**2 / 2,
        "I(-x^2)": -(x**2),
        "I(2^-1 * x)": x / 2,
        "I(2^3^2 * x)": 512 * x,
        "I(x - z - 1)": x - z - 1,
        "I(x - (z - 1))": x - (z - 1),
        "sin(2 * pi * x)": np.sin(2 * np.pi * x),
        "log(z)": np.log(z),
        "log(z, 3)": np.log(z) / np.log(3),
        "log(z, base = 2)": np.log2(z),
        "log10(z)": np.log10(z),
        "log1p(z) ": np.log1p(z),
        "expm1(x)": np.expm1(x),
        "sqrt(abs(x))": np.sqrt(np.abs(x)),
        "center(x)": x - x.mean(),
        "scale(x)": (x - x.mean()) / x.std(ddof=1),
        "scale(x, scale = FALSE)": x - x.mean(),
        "scale(x, center = FALSE)": x / np.sqrt(x @ x / (len(x) - 1)),
        "scale(x, 1, 2)": (x - 1) / 2,
        "I(center(x)^2)": (x - x.mean()) ** 2,
        "scale(log(z))": (np.log(z) - np.log(z).mean()) / np.log(z).std(ddof=1),
    }
    for text, values in expected.items():
        columns, _ = build(text, frame)
        assert columns.names[1] == text.strip()
        assert columns.values[1] == pytest.approx(values, rel=1e-14, abs=1e-14), text


def test_a_column_named_pi_is_the_column() -> None:
    frame = rows().assign(pi=3.0)
    columns, encoder = build("I(pi * x)", frame)
    assert np.array_equal(columns.values[1], 3.0 * frame["x"])
    with pytest.raises(DataError, match="'pi'"):
        encoder.encode(frame.drop(columns="pi"))
    plain, encoder = build("I(pi * x)", rows())
    assert np.array_equal(encoder.encode(frame).values[1], plain.values[1])


def test_poly_is_orthonormal_wherever_the_data_lie() -> None:
    # R: poly(1:5, 2)
    linear, square = (
        [-0.6324555, -0.3162278, 0, 0.3162278, 0.6324555],
        [0.5345225, -0.2672612, -0.5345225, -0.2672612, 0.5345225],
    )
    for unit, origin in ((1.0, 0.0), (1e150, 0.0), (1e-3, 1e6)):
        columns, _ = build("poly(x, 2)", pd.DataFrame({"x": origin + unit * np.arange(1.0, 6.0)}))
        assert columns.names == ("Intercept", "poly(x, 2)[1]", "poly(x, 2)[2]")
        # seven digits printed; 1e6 + 1e-3 keeps six of them
        assert matrix(columns)[:, 1:] == pytest.approx(np.column_stack([linear, square]), abs=1e-6)


def test_bs_with_bernstein_polynomials() -> None:
    # without inner knots the B-splines on [0, 1] are the Bernstein polynomials
    x = np.linspace(0, 1, 11)
    X = matrix(build("bs(x)", pd.DataFrame({"x": x}))[0])
    assert X[:, 1:] == pytest.approx(np.column_stack([3 * x * (1 - x) ** 2, 3 * x**2 * (1 - x), x**3]), abs=1e-15)


def test_ns_spans_the_natural_cubic_splines() -> None:
    x = np.sort(np.random.default_rng(3).gamma(2.0, size=80))
    columns, encoder = build("ns(x, 4)", pd.DataFrame({"x": x}))
    knots = np.quantile(x, [0, 0.25, 0.5, 0.75, 1])

    # truncated powers, made linear beyond the outer knots (Hastie, Tibshirani & Friedman 2009, eq. 5.4-5.5)
    def d(k: int) -> Array:
        return (np.maximum(x - knots[k], 0) ** 3 - np.maximum(x - knots[-1], 0) ** 3) / (knots[-1] - knots[k])

    expected = np.column_stack([np.ones_like(x), x, *(d(k) - d(3) for k in range(3))])
    fitted = expected @ np.linalg.lstsq(expected, matrix(columns), rcond=None)[0]
    assert fitted == pytest.approx(matrix(columns), abs=1e-11)
    beyond = matrix(encoder.encode(pd.DataFrame({"x": knots[-1] + np.array([1.0, 2.0, 3.0])})))
    assert np.diff(beyond, n=2, axis=0) == pytest.approx(0.0, abs=1e-12)


# fixed effects at R's covariance parameters must be R's fixed effects: the basis itself is R's, not just its span
GLS_TOL = 1e-8


@pytest.mark.parametrize(
    ("dataset", "id"),
    [
        ("Milk", "spline.REML"),
        ("Soybean", "spline.REML"),
        ("Soybean", "interaction.REML"),
        ("sleepstudy", "poly.REML"),
        ("Dialyzer", "unweighted.REML"),
        ("Wheat2", "trend.REML"),
        ("Orthodont", "log_scale.REML"),
        ("Earthquake", "offset.REML"),
        ("Alfalfa", "split_plot.REML"),
        ("Oxide", "no_intercept.REML"),
    ],
)
def test_generalised_least_squares_gives_the_coefficients_of_r(dataset: str, id: str) -> None:
    result = reference.model(dataset, id).result
    formula = parse(result["formula"])
    frame = reference.frame(dataset)[list(formula.columns)].dropna()
    assert len(frame) == result["n"]
    y = evaluate(formula.response, frame) - sum(evaluate(offset, frame, "offset") for offset in formula.offsets)
    V = result["sigma"] ** 2 * np.eye(len(y))
    for term in formula.random:
        Z = matrix(encode(term.effects, frame)[0])
        codes = frame.groupby(list(term.groups), observed=True).ngroup().to_numpy()
        name = ":".join(reversed(term.groups))  # as R names it
        T = np.array(result["varcorr"][name]["covariance"]).reshape(Z.shape[1], Z.shape[1])
        V += (codes[:, None] == codes) * (Z @ T @ Z.T)
    L = np.linalg.cholesky(V)
    X = np.linalg.solve(L, matrix(encode(formula.fixed, frame)[0]))
    beta = np.linalg.lstsq(X, np.linalg.solve(L, y), rcond=None)[0]
    assert beta == pytest.approx(result["fixef"]["values"], rel=GLS_TOL, abs=GLS_TOL)
    covariance = np.linalg.inv(X.T @ X)
    assert covariance == pytest.approx(np.array(result["vcov"]), rel=GLS_TOL, abs=GLS_TOL * covariance.max())


@pytest.mark.parametrize(
    ("right", "part"),
    [
        ("poly(k, 5)", r"less than the number of distinct values \(5\)"),
        ("poly(x, 2.5)", "integer from 1 to 100"),
        ("bs(x, df=1)", "df"),
        ("bs(x, df=1e9)", "integer from 1 to 1000"),
        ("bs(x, Boundary.knots=c(1, 2, 3))", "two numbers"),
        ("ns(one, 3)", "constant"),
        ("ns(x, knots=100)", "between the boundary knots"),
        ("cr(x)", "'df' or 'knots'"),
        ("scale(one)", "constant"),
    ],
)
def test_options_that_do_not_fit_the_data(right: str, part: str) -> None:
    with pytest.raises(DataError, match=part):
        build(right, rows().assign(one=1.0))


# ---- what is not finite


def test_a_transform_that_is_not_finite_says_where() -> None:
    frame = pd.DataFrame({"x": [1.0, -1.0, 2.0, 0.0]})
    with pytest.raises(DataError, match=r"log\(x\) is not finite in 2 rows \(first: row 1\)") as caught:
        build("log(x)", frame)
    assert caught.value.row == 1
    with pytest.raises(DataError, match=r"I\(1 / x\) is not finite in 1 row "):
        build("I(1/x)", frame)


@pytest.mark.parametrize("right", ["center(x)", "log(x)", "poly(x, 2)", "ns(x, 2)"])
def test_an_infinite_input_is_named(right: str) -> None:
    frame = pd.DataFrame({"x": [1.0, 2.0, np.inf, 3.0]})
    with pytest.raises(DataError, match=r"column 'x' has 1 infinite value \(row 2\)"):
        build(right, frame)
