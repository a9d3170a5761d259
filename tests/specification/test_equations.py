"""Models written as equations: what they mean, and what is said of those that mean nothing."""

import numpy as np
import pandas as pd
import pytest

import hlm
from hlm.errors import DataTypeError, DesignError, FormulaError

from ..reference import published
from ..test_published import agrees

TEXT = """
    mathach = b0 + b1*cses
    b0 = g00 + g01*meanses + g02*sector + u0[school]   # the intercept
    b1 = g10 + g11*meanses + g12*sector + u1[school]
"""
FORMULA = "mathach ~ cses * (meanses + sector) + (cses | school)"


@pytest.fixture(scope="module")
def three() -> pd.DataFrame:
    """600 pupils in 40 schools in 10 districts, with numbers of schools that start anew in each district."""
    rng = np.random.default_rng(3)
    pupil = np.arange(600)
    school, district = pupil % 40, pupil % 40 % 10
    income, resources, ses = rng.normal(size=10)[district], rng.normal(size=40)[school], rng.normal(size=600)
    v, u = rng.normal(size=(10, 2)), rng.normal(size=(40, 2))
    slope = 1 + 0.3 * resources + u[school, 1]
    y = 2 + income + v[district, 0] + u[school, 0] + (0.5 + v[district, 1]) * resources + slope * ses
    return pd.DataFrame(
        {
            "y": y + rng.normal(size=600),
            "ses": ses,
            "resources": resources,
            "income": income,
            "school": school,
            "number": school // 10,
            "district": district,
        }
    )


def same(one: hlm.Model, other: hlm.Model) -> None:
    """Two doors, one design: all numbers to the last bit."""
    assert one.design.names == other.design.names
    assert all(np.array_equal(a, b) for a, b in zip(one.design.columns, other.design.columns, strict=True))
    a, b = one.fit(), other.fit()
    assert a.criterion == b.criterion
    assert a.params.equals(b.params)
    assert a.bse.equals(b.bse)
    for name, T in a.covariances.items():
        assert T.equals(b.covariances[name])
        assert a.random_effects[name].equals(b.random_effects[name])


def test_equations_formula_and_arrays_are_one_model(hsb: pd.DataFrame) -> None:
    equations, formula = hlm.Model.from_equations(TEXT, hsb), hlm.Model(FORMULA, hsb)
    same(equations, formula)
    same(hlm.Model(str(equations.formula), hsb), formula)
    design = formula.design
    random = hlm.Random(hsb["school"], design.Z("school"), name="school", effects=["Intercept", "cses"])
    same(hlm.Model.from_arrays(design.y, design.X, [random], names=list(design.names)), formula)


def test_equations_as_objects(hsb: pd.DataFrame) -> None:
    equations = [
        hlm.Equation("mathach", (hlm.Effect("b0"), hlm.Effect("b1", "cses"))),
        hlm.Equation("b0", (hlm.Effect("g00"), hlm.Effect("g01", "meanses"), hlm.Disturbance("u0", "school"))),
    ]
    text = "mathach = b0 + b1*cses\nb0 = g00 + g01*meanses + u0[school]"
    assert [str(equation) for equation in equations] == text.split("\n")
    same(hlm.Model.from_equations(equations, hsb), hlm.Model.from_equations(text, hsb))


# -2 restricted log-likelihood of the four models, as lme4 gives it (published.json: "from_memory_unverified", refit)
HSB = {
    "mathach = b0 + e\nb0 = g00 + u0[school]": "47116.79",
    "mathach = b0 + e\nb0 = g00 + g01*meanses + u0[school]": "46961.28",
    "mathach = b0 + b1*cses + e\nb0 = g00 + u0[school]\nb1 = g10 + u1[school]": "46714.2",
    TEXT: "46503.67",
}


@pytest.mark.parametrize("text", list(HSB))
def test_published_high_school_and_beyond(hsb: pd.DataFrame, text: str) -> None:
    fit = hlm.Model.from_equations(text, hsb).fit()
    assert agrees(fit.criterion, HSB[text])
    if "meanses" not in text and "b1" not in text:
        assert agrees(fit.criterion, published("hsb_anova_sas")["printed"]["fit"]["-2RLL"])
        assert agrees(fit.llf, published("hsb_anova_hlm")["printed"]["fit"]["value of the likelihood function"])
    if "b1" in text and "meanses" not in text:
        assert agrees(fit.llf, published("hsb_rc_stata")["printed"]["fit"]["log restricted-likelihood"])
        assert agrees(fit.tvalues["cses"] ** 2, published("hsb_rc_stata")["printed"]["wald_chi2(1)"])


def test_third_level(three: pd.DataFrame) -> None:
    text = """
        y   = p0 + p1*ses
        p0  = b00 + b01*resources + r0[school]
        p1  = b10 + b11*resources + r1[school]
        b00 = g000 + g001*income + v0[district]
        b01 = g010 + v1[district]
    """
    formula = "y ~ ses + resources + income + ses:resources + (ses | school) + (resources | district)"
    same(hlm.Model.from_equations(text, three), hlm.Model(formula, three))
    nested = text.replace("[school]", "[district:number]")
    same(
        hlm.Model.from_equations(nested, three),
        hlm.Model(formula.replace("| school", "| district:number"), three),
    )


def test_fourth_level_and_slices() -> None:
    rng = np.random.default_rng(4)
    frame = pd.DataFrame({c: rng.integers(0, 3, 700) for c in "abcd"} | {"x": rng.normal(size=700)})
    frame["w"] = frame["a"] * 1.5
    frame["class"] = frame["d"]
    frame["y"] = rng.normal(size=700) + frame["a"] + frame.groupby(["a", "b"])["x"].transform("mean")
    text = """
        y = e0 + e1*x
        e0 = d0 + t[a, b, c, class]
        d0 = c0 + s[a:b:c]
        c0 = k0 + r[a:b]
        k0 = g0 + u[a]
        e1 = h0 + g1*w
    """
    model = hlm.Model.from_equations(text, frame)
    assert [factor.name for factor in model.design.factors] == ["a:b:c:class", "a:b:c", "a:b", "a"]
    other = hlm.Model("y ~ x + x:w + (1 | a/b/c/class)", frame).fit()
    # the factors come in another order: sums are added up in another order
    assert model.fit().criterion == pytest.approx(other.criterion, rel=1e-12)
    assert model.fit().params["x:w"] == pytest.approx(other.params["x:w"], rel=1e-9)


def test_crossed_levels(three: pd.DataFrame) -> None:
    frame = three.assign(item=np.arange(600) // 40, hard=np.arange(600) // 40 % 4)
    text = "y = b0 + b1*ses\nb0 = g0 + g1*resources + g2*hard + u[school] + w[item]"
    same(
        hlm.Model.from_equations(text, frame),
        hlm.Model("y ~ ses + resources + hard + (1 | school) + (1 | item)", frame),
    )


def test_coefficients_known_in_advance(hsb: pd.DataFrame) -> None:
    text = """
        mathach = b0 + b1*cses
        b0 = g00 + 5.0*meanses + g02*sector + u0[school]
        b1 = g10 + g11*meanses + g12*sector + u1[school]
        g12 = -1.5
    """
    fit = hlm.Model.from_equations(text, hsb).fit()
    less = hsb.assign(known=5.0 * hsb["meanses"] - 1.5 * hsb["cses"] * hsb["sector"])
    formula = "mathach ~ cses + sector + cses:meanses + offset(known) + (cses | school)"
    other = hlm.Model(formula, less).fit()
    # the offset is added up in another order
    assert fit.criterion == pytest.approx(other.criterion, rel=1e-12)
    assert fit.params.to_numpy() == pytest.approx(other.params.to_numpy(), rel=1e-9)
    assert fit.predict(hsb.head()).to_numpy() == pytest.approx(other.predict(less.head()).to_numpy(), rel=1e-9)
    zero = hlm.Model.from_equations("mathach = b0 + b1*cses\nb1 = 0\nb0 = g + u[school]", hsb)
    assert zero.design.names == ("Intercept",)


def test_product_without_main_effect_and_transforms(hsb: pd.DataFrame) -> None:
    text = """
        mathach = b0 + b1*cses + b2*(size - 500) + b3*poly(ses, 2)
        b0 = g00 + u0[school]
        b1 = g11*log(size)*C(sector, Sum) + u1[school]
    """
    model = hlm.Model.from_equations(text, hsb)
    # without the main effect of cses both categories of sector have a column
    assert model.design.names == (
        "Intercept",
        "I(size - 500)",
        "poly(ses, 2)[1]",
        "poly(ses, 2)[2]",
        "cses:log(size):C(sector, Sum)[0]",
        "cses:log(size):C(sector, Sum)[1]",
    )
    same(model, hlm.Model(str(model.formula), hsb))


def test_names_of_any_kind() -> None:
    rng = np.random.default_rng(5)
    frame = pd.DataFrame({"my x": rng.normal(size=60), "Petal.Width": rng.normal(size=60), "class": np.arange(60) % 6})
    frame["β"] = frame["my x"] + rng.normal(size=60) + frame["class"]
    text = "β = π0 + π1*`my x`\n  + π2*Petal.Width  # goes on\nπ0 = γ00 + u[class]"
    same(
        hlm.Model.from_equations(text, frame),
        hlm.Model("β ~ `my x` + Petal.Width + (1 | class)", frame),
    )
    assert hlm.Model.from_equations(text, frame).formula == "β ~ 1 + `my x` + Petal.Width + (1 | class)"


def test_errors_in_the_first_equation(hsb: pd.DataFrame) -> None:
    combined = "mathach = g00 + g01*meanses + g10*cses + u0[school] + u1[school]*cses + e"
    model = hlm.Model.from_equations(combined, hsb)
    fit, other = model.fit(), hlm.Model("mathach ~ cses + meanses + (cses | school)", hsb).fit()
    assert fit.criterion == pytest.approx(other.criterion, rel=1e-12)  # another order of columns


MALFORMED = {
    "mathach = b0 + b1*cses\nb0 = g00 + g01*meansess + u0[school]": ("line 2", "meansess", "did you mean 'meanses'"),
    "mathach = b0 + b1*cses\nb0 = g00 + u0[scool]": ("line 2", "scool", "did you mean 'school'"),
    "mathach = b0 + b1*cses\nb2 = g00 + u0[school]": ("line 2", "b2", "no other equation has it"),
    "mathach = b0 + b1*cses\nmeanses = g00 + u0[school]": ("line 2", "meanses", "is a column"),
    "mathach = b0 + b1*cses + b1*minority": ("line 1", "b1", "used twice"),
    "mathach = b0 + b1*cses\nb0 = g00 + u0[school]\nb1 = g10 + u0[school]": ("line 3", "u0[school]", "two equations"),
    "mathach = b0 + b1*cses\nb0 = g00 + u0[school]\nb0 = g01": ("line 3", "b0", "has an equation already (line 2)"),
    "mathach = b0 + exp(b1)*cses": ("line 1", "b1", "the model is linear"),
    "mathach = b0 + b1*cses**b2": ("line 1", "b2", "the model is linear"),
    "mathach = b0*b1": ("line 1", "b0*b1", "neither is a column"),
    "mathach = b0 + cses": ("line 1", "cses", "no coefficient"),
    "mathach = b0 + b1 cses": ("line 1", "c", "operator is missing"),
    "mathach = b0 + b1*cses +\nb0 = g00 + u0[school]": ("line 1", "+", "ends with an operator"),
    "mathach ~ cses + (1 | school)": ("line 1", "~", "'~' belongs to formulas"),
    "math = b0 + b1*cses": ("line 1", "math", "must be a column"),
    "mathach = b0 + b1*cses\nb0 = g00 + g01 + u0[school]": ("line 2", "g01", "both are intercepts"),
    "mathach = b0 + b1*(cses": ("line 1", "(", "never closed"),
    "mathach = b0 + b1*cses)": ("line 1", ")", "without '('"),
    "mathach = b0 - b1*cses": ("line 1", "b1*cses", "write + b1"),
    "mathach = b0\nb0 = g00 + u0[]": ("line 2", "[]", "grouping column"),
    "mathach = b0 + b1*cses^2": ("line 1", "b0 + b1*cses^2", "no power"),
    "mathach = b0 + b1*lag(cses)": ("line 1", "lag", "unknown function"),
    "mathach = b0 + b1*log(foo)": ("line 1", "foo", "not a column"),
    "mathach = b0 + b1*cses/10": ("line 1", "b1*cses/10", "I(x/10)"),
    "mathach = b0 + b1*cses\nb0 = g00 + g01*u0[school]": ("line 2", "g01*u0[school]", "enters linearly"),
    "mathach = b0 + b1*cses\nb0 = g00 - u0[school]": ("line 2", "u0[school]", "without sign"),
    "mathach = b0\nb0 == g00": ("line 2", "=", "one '='"),
    "mathach = b0 + b1*cses*cses": ("line 1", "cses", "multiplied with itself"),
    "mathach = b0 + b1*mathach": ("line 1", "mathach", "also appears on the right"),
    "mathach = b0\nb0 = g00 + u0[school]\ng1 = g2\ng2 = g1": ("line 3", "g1", "no other equation"),
    "mathach = b0 + __import__('os').system('x')*cses": ("line 1", ".", "operator is missing"),
    "mathach = b0 + (lambda: 1)*cses": ("line 1", ":", "cannot be read"),
    "mathach = b0 + [b1]*cses": ("line 1", "[b1]", "neither"),
    "mathach =": ("line 1", "", "nothing right"),
    "= b0": ("line 1", "=", "nothing left"),
    "mathach = b0 + True*cses": ("line 1", "True", "neither"),
    "mathach = b0 + 2*b1*cses": ("line 1", "2*b1*cses", "multiplied with a number"),
    "mathach = b0 + 1e999*cses": ("line 1", "m", "no finite number"),
    "mathach = b0 + b1*cses\nb0 = g00 + cses[school]": ("line 2", "cses", "give the error a name"),
    "mathach = b0\nb0 = g00 + u[school]\nb 1 = g10": ("line 3", "b 1", "name of one coefficient"),
    "mathach = b0\nno equation at all": ("line 2", "", "no '='"),
    "mathach = " + "(" * 300 + "b0" + ")" * 300: ("line 1", "", ""),
    "mathach = " + "+".join(["b0"] * 3000): ("line 1", "", ""),
    "": ("", "", "no equations"),
}


@pytest.mark.parametrize("text", list(MALFORMED))
def test_malformed_equations(hsb: pd.DataFrame, text: str) -> None:
    line, symbol, words = MALFORMED[text]
    with pytest.raises(FormulaError) as caught:
        hlm.Model.from_equations(text, hsb)
    message = str(caught.value)
    assert message.startswith(line)
    assert words in message
    if text:
        shown, caret = message.split("\n")[1:]
        assert shown.strip() == text.split("\n")[int(line[5:]) - 1].strip() or "..." in shown
        if symbol:
            at = caret.index("^")
            assert shown[at : at + len(caret.strip())] == symbol


def test_a_regressor_of_level_1_in_an_equation_of_level_2(hsb: pd.DataFrame, three: pd.DataFrame) -> None:
    text = "mathach = b0 + b1*cses\nb0 = g00 + g01*minority + u0[school]"
    with pytest.raises(
        DesignError, match=r"line 2: 'minority' varies inside school '1224' \(minority is 0 in row 0, 1 in"
    ) as caught:
        hlm.Model.from_equations(text, hsb)
    assert caught.value.column == "minority"
    assert caught.value.group == "1224"
    # an equation without an error may have regressors of any level that there is
    with pytest.raises(DesignError, match="line 3: 'log"):
        hlm.Model.from_equations("mathach = b0 + b1*cses\nb0 = g00 + u[school]\nb1 = g10 + g11*log(ses + 10)", hsb)
    text = "y = b0\nb0 = g0 + u[school]\ng0 = d0 + d1*resources + v[district]"
    with pytest.raises(DesignError, match="of level 'district'"):
        hlm.Model.from_equations(text, three)


def test_wrong_types(hsb: pd.DataFrame) -> None:
    for wrong in (5, None, ["mathach = b0"], [None]):
        with pytest.raises(DataTypeError):
            hlm.Model.from_equations(wrong, hsb)  # type: ignore[arg-type]
    with pytest.raises(DataTypeError):
        hlm.Effect(True)
    with pytest.raises(DataTypeError):
        hlm.Effect("b0", 3)  # type: ignore[arg-type]
    with pytest.raises(DataTypeError):
        hlm.Equation("b0", ["g00"])  # type: ignore[arg-type]
    with pytest.raises(FormulaError, match="an equation: 'cses'"):
        hlm.Model.from_equations([hlm.Equation("mathach", (hlm.Effect("cses"),))], hsb)
