"""Linear hypotheses, tables of terms, marginal means, slopes and regions against what is known in closed form."""

from __future__ import annotations

from functools import cache

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import hlm
from hlm.inference.adjust import adjusted_pvalues, adjusted_quantiles

from ..reference import frame


@cache
def school() -> hlm.Fit:
    return hlm.Model("mAch ~ meanses * cses + sector * cses + (cses | school)", frame("Hsb82")).fit()


@cache
def without_variance() -> tuple[hlm.Fit, pd.DataFrame]:
    """An unbalanced design whose groups differ less than chance: T̂ = 0, where every test is that of least squares."""
    rng = np.random.default_rng(5)
    data = pd.DataFrame({"g": np.arange(60) % 6, "x": rng.normal(size=60), "z": rng.normal(size=60) + 1})
    data["a"] = rng.choice(["p", "q", "r"], 60, p=[0.5, 0.3, 0.2])
    data["b"] = rng.choice(["no", "yes"], 60)
    noise = rng.normal(size=60)
    data["y"] = data["x"] + (data["a"] == "q") * data["x"] + noise - noise.reshape(10, 6).mean(axis=0)[data["g"]]
    fit = hlm.Model("y ~ a * b + a * x + z + (1 | g)", data).fit()
    assert fit.is_singular
    return fit, data


def rss(X: np.ndarray, y: np.ndarray) -> float:
    return float(((y - X @ np.linalg.lstsq(X, y, rcond=None)[0]) ** 2).sum())


# ---- hypotheses -----------------------------------------------------------------------------------------------------


def test_text_names_and_matrices_say_the_same() -> None:
    fit = school()
    names = list(fit.params.index)
    L = np.zeros((2, 6))
    L[0, names.index("meanses:cses")] = 1
    L[1, names.index("sector[T.Public]")] = 1
    by_matrix = fit.test(L, [0, -2])
    for asked in (
        "cses:meanses = 0, sector = -2",  # parts in another order; the one column of a term
        ["meanses:cses", "sector[T.Public] = -2"],
        {"cses:meanses": 0, "sector": -2},
        "meanses:cses = 0; 2 + sector = 0",
    ):
        found = fit.test(asked)
        assert found.statistic == pytest.approx(by_matrix.statistic)
        assert found.pvalue == pytest.approx(by_matrix.pvalue)
        np.testing.assert_allclose(found.rows, by_matrix.rows)
    table = pd.DataFrame(L[:, [4, 3]], index=["one", "two"], columns=[names[4], names[3]])
    found = fit.test(table, [0, -2])
    assert list(found.rows.index) == ["one", "two"]
    assert found.statistic == pytest.approx(by_matrix.statistic)
    np.testing.assert_array_equal(found.L, L)
    assert "F(2, " in str(found)


def test_numbers_of_a_test() -> None:
    fit = school()
    found = fit.test("cses = 1, sector = 0", method="z")
    C = fit.cov_params().loc[["cses", "sector[T.Public]"], ["cses", "sector[T.Public]"]].to_numpy()
    d = fit.params[["cses", "sector[T.Public]"]].to_numpy() - [1, 0]
    chi2 = d @ np.linalg.solve(C, d)
    assert found.statistic * 2 == pytest.approx(chi2)
    assert np.isinf(found.df_den)
    assert found.pvalue == pytest.approx(stats.chi2.sf(chi2, 2))
    difference = fit.test("cses - sector = 0").rows.iloc[0]
    assert difference["estimate"] == pytest.approx(fit.params["cses"] - fit.params["sector[T.Public]"])
    assert difference["se"] == pytest.approx(np.sqrt(C[0, 0] + C[1, 1] - 2 * C[0, 1]))
    for method in ("satterthwaite", "kenward-roger", "hlm", "CR2"):
        one = fit.test("cses", method=method)
        view = fit.inference(method)
        assert one.statistic == pytest.approx(view.tvalues["cses"] ** 2)
        assert one.df_den == pytest.approx(view.df["cses"])
        assert one.pvalue == pytest.approx(view.pvalues["cses"])


def test_a_term_of_several_columns() -> None:
    fit, _ = without_variance()
    assert list(fit.test("a:x").rows.index) == ["a[T.q]:x = 0", "a[T.r]:x = 0"]
    assert fit.test("a = 1").rows["hypothesis"].tolist() == [1, 1]
    assert fit.test("a[T.q] = a[T.r]").df_num == 1


@pytest.mark.parametrize(
    ("hypothesis", "values", "message"),
    [
        ("cses = ses", None, "no parameter 'ses'"),
        ("cses * meanses = 0", None, "not linear"),
        ("", None, "empty"),
        (np.ones((1, 5)), None, r"must be \(r, 6\), one column a coefficient"),
        (np.ones((2, 6)), [1, 2, 3], "values must have 2 entries"),
        (np.full((1, 6), np.nan), None, "finite"),
        (pd.DataFrame({"ses": [1.0]}), None, "no coefficient 'ses'"),
    ],
)
def test_what_is_no_hypothesis(hypothesis: object, values: object, message: str) -> None:
    with pytest.raises((hlm.DataError, hlm.FormulaError), match=message):
        school().test(hypothesis, values)


def test_what_has_the_wrong_type() -> None:
    with pytest.raises(hlm.DataTypeError, match="matrix of numbers"):
        school().test(object())
    with pytest.raises(hlm.DataTypeError, match="values belong to a matrix"):
        school().test("cses", [1])


def test_aliased_columns() -> None:
    rng = np.random.default_rng(1)
    data = pd.DataFrame({"g": np.repeat(np.arange(8), 5), "x": rng.normal(size=40), "w": rng.normal(size=40)})
    data["sum"] = data["x"] + 2 * data["w"]
    data["y"] = rng.normal(size=40) + rng.normal(size=8)[data["g"]]
    with pytest.warns(hlm.RankDeficientWarning):
        fit = hlm.Model("y ~ x + w + sum + (1 | g)", data).fit()
    # the coefficient of x alone depends on what "sum" gets; x + sum does too; x + w / 2 - ... does not
    with pytest.raises(hlm.DataError, match="has no estimate: it depends on 'sum'"):
        fit.test("x = 0")
    found = fit.test("x + w + 3 * sum = 0").rows.iloc[0]
    assert found["estimate"] == pytest.approx(fit.params["x"] + fit.params["w"])
    table = fit.anova("III").table
    assert table["F"].isna().all()
    assert fit.anova("I").table["F"].notna().tolist() == [True, True, False]


# ---- tables of terms ------------------------------------------------------------------------------------------------


def test_sums_of_squares_are_those_of_least_squares_when_groups_do_not_differ() -> None:
    fit, data = without_variance()
    y = data["y"].to_numpy()
    one, x, z = np.ones(60), data["x"].to_numpy(), data["z"].to_numpy()
    A = np.array([[1.0, 0], [0, 1], [-1, -1]])[pd.Categorical(data["a"]).codes]  # sums to zero
    B = np.array([1.0, -1])[pd.Categorical(data["b"]).codes][:, None]
    blocks = {"a": A, "b": B, "x": x[:, None], "z": z[:, None], "a:b": A * B, "a:x": A * x[:, None]}

    def left(terms: list[str]) -> float:
        return rss(np.column_stack([one, *(blocks[term] for term in terms)]), y)

    every = list(blocks)
    for kind in ("I", "II", "III"):
        table = fit.anova(kind, method="z").table
        assert set(table.index) == set(every)
        for term in every:
            if kind == "I":
                before = list(table.index[: list(table.index).index(term)])
            elif kind == "II":
                over = {"a": ["a:b"], "b": ["a:b"], "x": ["a:x"]}.get(term, [])
                before = [other for other in every if other != term and other not in over]
            else:
                before = [other for other in every if other != term]
            squares = left(before) - left([*before, term])
            assert table.loc[term, "sum_sq"] == pytest.approx(squares, rel=1e-8, abs=1e-10), (kind, term)
            assert table.loc[term, "num_df"] == blocks[term].shape[1]


def test_a_table_says_what_it_tests() -> None:
    fit, _ = without_variance()
    found = fit.anova(3)
    assert "equal weights" in found.statement
    assert found.statement in str(found)
    # the hypothesis of a number beside an interaction: its slope averaged over the categories
    row = found.hypotheses["x"].iloc[0]
    assert row[row != 0].to_dict() == pytest.approx({"x": 1, "a[T.q]:x": 1 / 3, "a[T.r]:x": 1 / 3})
    with pytest.raises(hlm.DataError, match="'I', 'II' or 'III'"):
        fit.anova("IV")


def test_the_coding_does_not_matter() -> None:
    fit, data = without_variance()
    turned = hlm.Model("y ~ C(a, Helmert) * C(b, Sum) + C(a, Helmert) * x + z + (1 | g)", data).fit()
    for kind in ("II", "III"):
        one, other = fit.anova(kind, method="kenward-roger").table, turned.anova(kind, method="kenward-roger").table
        np.testing.assert_allclose(one["F"], other["F"], rtol=1e-6)
        np.testing.assert_allclose(one["den_df"], other["den_df"], rtol=1e-6)


# ---- means, slopes, regions -----------------------------------------------------------------------------------------


def test_means_average_over_the_other_variables() -> None:
    fit, data = without_variance()
    b = fit.params
    x, z = data["x"].mean(), data["z"].mean()
    share = (data["b"] == "yes").mean()
    for weights, yes in (("equal", 0.5), ("proportional", share)):
        means = fit.marginal_means("a", weights=weights)
        p = b["Intercept"] + b["b[T.yes]"] * yes + b["x"] * x + b["z"] * z
        q = p + b["a[T.q]"] + b["a[T.q]:b[T.yes]"] * yes + b["a[T.q]:x"] * x
        assert means.table["estimate"].iloc[:2].tolist() == pytest.approx([p, q])
        assert f"averaged over b ({weights} weights)" in means.about
    held = fit.marginal_means(["a", "b"], at={"x": 2, "z": 0, "b": "no"}).table
    assert held["estimate"].iloc[0] == pytest.approx(b["Intercept"] + 2 * b["x"])
    assert list(held.columns[:2]) == ["a", "b"]
    assert len(held) == 3
    numbers = fit.marginal_means("x", at={"x": [0.0, 1.0]})
    slope = numbers.contrasts("consecutive").iloc[0]
    assert slope["estimate"] == pytest.approx(b["x"] + (b["a[T.q]:x"] + b["a[T.r]:x"]) / 3)
    assert slope["contrast"] == "1 - 0"


def test_contrasts() -> None:
    fit, _ = without_variance()
    means = fit.marginal_means("a")
    m = means.table["estimate"].to_numpy()
    assert means.contrasts("pairs")["estimate"].tolist() == pytest.approx([m[0] - m[1], m[0] - m[2], m[1] - m[2]])
    assert means.contrasts("reference", reference=1)["estimate"].tolist() == pytest.approx([m[0] - m[1], m[2] - m[1]])
    assert means.contrasts("effects")["estimate"].tolist() == pytest.approx(list(m - m.mean()))
    own = means.contrasts({"p against the rest": [1, -0.5, -0.5]}, adjust="none").iloc[0]
    assert own["estimate"] == pytest.approx(m[0] - (m[1] + m[2]) / 2)
    assert own["p"] == pytest.approx(2 * stats.t.sf(abs(own["t"]), own["df"]))
    with pytest.raises(hlm.DataError, match="needs 3 coefficients"):
        means.contrasts({"two": [1, -1]})
    with pytest.raises(hlm.DataError, match="Tukey's adjustment is for all pairs"):
        means.contrasts("effects", adjust="tukey")
    with pytest.raises(hlm.DataError, match="adjust must be one of"):
        means.contrasts(adjust="scheffe")
    with pytest.raises(hlm.DataError, match="contrasts are 'pairs'"):
        means.contrasts("all")


def test_adjustments() -> None:
    t, df = np.array([2.5, 1.0, 3.2]), np.array([10.0, 20.0, 15.0])
    p = 2 * stats.t.sf(t, df)
    np.testing.assert_allclose(adjusted_pvalues(t, df, "bonferroni", 3), np.minimum(1, 3 * p))
    np.testing.assert_allclose(adjusted_pvalues(t, df, "sidak", 3), 1 - (1 - p) ** 3)
    # Holm: smallest times 3, next times 2, last as it is, never falling
    np.testing.assert_allclose(adjusted_pvalues(t, df, "holm", 3), [2 * p[0], p[1], 3 * p[2]])
    np.testing.assert_allclose(adjusted_pvalues(t, df, "none", 3), p)
    # with two means Tukey's is Student's
    np.testing.assert_allclose(adjusted_pvalues(t, df, "tukey", 2), p, rtol=1e-6)
    np.testing.assert_allclose(adjusted_quantiles(df, 0.05, "tukey", 2), stats.t.ppf(0.975, df), rtol=1e-6)
    for adjust in ("tukey", "bonferroni", "sidak", "none"):
        quantile = adjusted_quantiles(df, 0.1, adjust, 3)
        np.testing.assert_allclose(adjusted_pvalues(quantile, df, adjust, 3), 0.1, rtol=1e-6)


def test_simple_slopes() -> None:
    fit = school()
    b = fit.params
    table = fit.slopes("cses", ["sector", "meanses"], at={"meanses": [-1.0, 0.5]}).table
    assert table["sector"].tolist() == ["Catholic", "Catholic", "Public", "Public"]
    expected = [
        b["cses"] + public * b["cses:sector[T.Public]"] + m * b["meanses:cses"] for public in (0, 1) for m in (-1, 0.5)
    ]
    np.testing.assert_allclose(table["estimate"], expected, rtol=1e-9)
    asked = fit.test("cses + cses:sector[T.Public] - meanses:cses = 0").rows.iloc[0]
    assert table["se"].iloc[2] == pytest.approx(asked["se"])
    assert table["df"].iloc[2] == pytest.approx(asked["df"])
    default = fit.slopes("cses", "meanses").table["meanses"]
    values = frame("Hsb82")["meanses"]
    np.testing.assert_allclose(default, values.mean() + np.array([-1, 0, 1]) * values.std(), rtol=1e-9)
    with pytest.raises(hlm.DataError, match="'sector' is a category"):
        fit.slopes("sector")


def test_slopes_of_curves_are_derivatives() -> None:
    data = frame("sleepstudy")
    fit = hlm.Model("Reaction ~ poly(Days, 3) + (Days | Subject)", data).fit()
    raw = hlm.Model("Reaction ~ Days + I(Days^2) + I(Days^3) + (Days | Subject)", data).fit().params.to_numpy()
    table = fit.slopes("Days", "Days", at={"Days": [1.0, 7.0]}).table
    np.testing.assert_allclose(table["estimate"], [raw[1] + 2 * raw[2] * d + 3 * raw[3] * d**2 for d in (1, 7)], 1e-6)


def test_johnson_neyman_bounds_have_p_equal_to_alpha() -> None:
    fit = school()
    for method in ("z", "satterthwaite", "kenward-roger"):
        found = fit.johnson_neyman("cses", "meanses", at={"sector": "Catholic"}, method=method, alpha=0.01)
        assert len(found.bounds) == 2
        for bound in found.bounds:
            asked = fit.test(f"cses + {bound!r} * meanses:cses = 0", method=method)
            assert asked.pvalue == pytest.approx(0.01, rel=1e-6)
        assert found.regions["sign"].tolist() == [-1, 0, 1]
        assert str(found).count("at level 0.01") == 3
        assert "sector = Catholic" in str(found)
    # with normal quantiles the bounds are the roots of a quadratic (Bauer and Curran 2005)
    found = fit.johnson_neyman("cses", "meanses", at={"sector": "Catholic"}, method="z", alpha=0.01)
    C = fit.cov_params().loc[["cses", "meanses:cses"], ["cses", "meanses:cses"]].to_numpy()
    b, c = fit.params["cses"], fit.params["meanses:cses"]
    z2 = stats.norm.ppf(0.995) ** 2
    roots = np.roots([c * c - z2 * C[1, 1], 2 * (b * c - z2 * C[0, 1]), b * b - z2 * C[0, 0]])
    np.testing.assert_allclose(found.bounds, np.sort(roots), rtol=1e-8)
    with pytest.raises(hlm.DataError, match="'sector' is a category"):
        fit.johnson_neyman("cses", "sector")
    with pytest.raises(hlm.DataError, match="no variable of the fixed part"):
        fit.johnson_neyman("cses", "size")


def test_means_include_the_offset() -> None:
    data = frame("Earthquake")
    fit = hlm.Model("log(accel) ~ log(distance) + soil + offset(0.25 * Richter) + (1 | Quake)", data).fit()
    table = fit.marginal_means("soil", at={"distance": 10.0, "Richter": 6.0}).table
    b = fit.params
    first = b["Intercept"] + np.log(10) * b["log(distance)"] + 1.5
    assert table["estimate"].iloc[0] == pytest.approx(first)


def test_means_of_groups_in_the_model() -> None:
    """A column less the mean of its group: x is held, and the groups are averaged over like other categories."""
    data = frame("Hsb82")
    data["school"] = data["school"].astype(str)
    fit = hlm.Model("mAch ~ center(ses, school) + mean(ses, school) + (1 | school)", data).fit()
    b, means = fit.params.to_numpy(), data.groupby("school")["ses"].mean().to_numpy()
    for weights, mean in (("equal", means.mean()), ("proportional", data["ses"].mean())):
        found = fit.marginal_means("ses", at={"ses": 0.3}, weights=weights).table["estimate"].iloc[0]
        assert found == pytest.approx(b[0] + b[1] * (0.3 - mean) + b[2] * mean, rel=1e-9)
    assert fit.slopes("ses").table["estimate"].iloc[0] == pytest.approx(b[1], rel=1e-8)


def test_models_of_level_equations() -> None:
    data = frame("Hsb82")
    text = """
        mAch = b0 + b1*cses
        b0 = g00 + g01*meanses + g02*sector + u0[school]
        b1 = g10 + g11*meanses + g12*sector + u1[school]
    """
    fit = hlm.Model.from_equations(text, data).fit()
    other = school()
    for term in ("meanses:cses", "cses:meanses", "sector"):
        assert fit.test(term).pvalue == pytest.approx(other.test(term).pvalue, rel=1e-6)
    slopes = [f.slopes("cses", "sector").table["se"].tolist() for f in (fit, other)]
    np.testing.assert_allclose(slopes[0], slopes[1], rtol=1e-6)
    F = [f.anova("III").table["F"] for f in (fit, other)]
    assert F[0]["sector"] == pytest.approx(F[1]["sector"], rel=1e-6)


def test_a_model_that_is_a_part_of_another() -> None:
    """Steps of the ladder read their columns as the full model does."""
    text = """
        mAch = b0 + b1*cses
        b0 = g00 + g01*meanses + g02*sector + u0[school]
        b1 = g10 + g11*meanses + g12*sector + u1[school]
    """
    fits = hlm.Model.from_equations(text, frame("Hsb82")).ladder().fits
    for fit in fits.values():
        if len(fit.params) < 2:
            continue
        table = fit.anova("II", method="z").table
        for term in table.index:
            assert table.loc[term, "F"] == pytest.approx(fit.test(term, method="z").statistic) or ":" not in term
        if "cses" in table.index:
            at = {"meanses": 0.0, "sector": "Catholic"}
            means = fit.marginal_means("cses", at={"cses": [0.0, 1.0], **at}).table["estimate"]
            assert means[0] == pytest.approx(fit.params["Intercept"])
            assert means[1] - means[0] == pytest.approx(fit.params["cses"])
            assert fit.slopes("cses", at=at).table["estimate"][0] == pytest.approx(fit.params["cses"])


def test_absorbed_intercepts() -> None:
    """Degrees of freedom and tests are those of the regression with a dummy for each group."""
    data = frame("Orthodont")
    fit = hlm.cases.ancova(data, "distance", "Subject", "age").fit()
    dummies = hlm.Model("distance ~ age + Subject", data).fit()
    for method in ("satterthwaite", "kenward-roger", "between-within", "hlm"):
        assert fit.inference(method).df["age"] == pytest.approx(dummies.df_resid)
    assert fit.test("age").statistic == pytest.approx(dummies.test("age").statistic)
    assert fit.anova("I").table.loc["age", "F"] == pytest.approx(dummies.anova("II").table.loc["age", "F"])
    with pytest.raises(hlm.DesignError, match="intercepts of 'Subject' are absorbed"):
        fit.marginal_means("age")


def test_models_of_arrays() -> None:
    rng = np.random.default_rng(3)
    codes = np.repeat(np.arange(9), 6)
    X = np.column_stack([np.ones(54), rng.normal(size=(54, 2))])
    y = rng.normal(size=9)[codes] + rng.normal(size=54)
    fit = hlm.Model.from_arrays(y, X, [hlm.Random(codes)], names=["Intercept", "u", "v"]).fit()
    assert fit.test("u = v").df_num == 1
    assert list(fit.anova("III").table.index) == ["u", "v"]
    with pytest.raises(hlm.DataError, match="model of arrays"):
        fit.marginal_means("u")


def test_known_and_tied_coefficients() -> None:
    """A model with γ known is the model of the response less γ x; tied coefficients are one column."""
    rng = np.random.default_rng(4)
    data = pd.DataFrame({"g": np.repeat(np.arange(12), 6), "x": rng.normal(size=72), "z": rng.normal(size=72)})
    data["w"] = rng.normal(size=12)[data["g"]]
    data["y"] = data["x"] + data["w"] + rng.normal(size=12)[data["g"]] + rng.normal(size=72)
    formula = "y ~ x + z + w + (1 | g)"
    known = hlm.Model(formula, data).fit(fixed={"x": 0.5})
    short = hlm.Model("y2 ~ z + w + (1 | g)", data.assign(y2=data["y"] - 0.5 * data["x"])).fit()
    tied = hlm.Model(formula, data).fit(constraints=["x = z"])
    both = hlm.Model("y ~ xz + w + (1 | g)", data.assign(xz=data["x"] + data["z"])).fit()
    for method in ("z", "satterthwaite", "kenward-roger", "between-within", "hlm", "CR2"):
        one, other = known.inference(method).table(), short.inference(method).table()
        np.testing.assert_allclose(one.loc[other.index, "se"], other["se"], rtol=1e-6)
        np.testing.assert_allclose(one.loc[other.index, "df"], other["df"], rtol=1e-5)
        assert one.loc["x", "se"] == 0
        assert np.isnan(one.loc["x", "t"])
        one, other = tied.inference(method).table(), both.inference(method).table()
        np.testing.assert_allclose(one.loc[["x", "z"], "se"], other.loc["xz", "se"], rtol=1e-6)
        np.testing.assert_allclose(one.loc[["x", "z"], "df"], other.loc["xz", "df"], rtol=1e-5)
    assert known.test("z = 0, w = 0").df_num == 2
    assert tied.test("x = 0, z = 0").df_num == 1
    table = known.anova("II").table
    np.testing.assert_allclose(table.loc[["z", "w"], "F"], short.anova("II").table["F"], rtol=1e-5)
    assert table.loc["x", "num_df"] == 0
