"""Levels found from the data, equations in print, and the matrix of a unit."""

import numpy as np
import pandas as pd
import pytest

import hlm
from hlm.errors import DataError, DesignError

from .reference import frame as reference

FULL = "mathach ~ cses * (meanses + sector) + (cses | school)"
PRINTED = """\
# level 1: rows
mathach = b0 + b1*cses + e
# level 2: school
b0 = g00 + g01*meanses + g02*sector + u0[school]
b1 = g10 + g11*meanses + g12*sector + u1[school]
# combined
# mathach = g00 + g01*meanses + g02*sector + g10*cses + g11*cses*meanses + g12*cses*sector + u0[school] + \
u1[school]*cses + e"""


@pytest.fixture(scope="module")
def three() -> pd.DataFrame:
    """Pupils in schools in districts, and examiners across all of them."""
    rng = np.random.default_rng(8)
    n, school = 480, np.arange(480) % 48
    district, examiner = school % 8, rng.integers(0, 5, n)
    frame = pd.DataFrame({"school": school, "district": district, "examiner": examiner, "x": rng.normal(size=n)})
    frame["z"] = rng.normal(size=48)[school]
    frame["w"] = rng.normal(size=8)[district]
    frame["strict"] = rng.normal(size=5)[examiner]
    frame["kind"] = np.array(["state", "church", "private"])[school % 3]
    effects = rng.normal(size=48)[school] + rng.normal(size=8)[district] + rng.normal(size=5)[examiner]
    frame["y"] = effects + frame["x"] * (1 + rng.normal(size=48)[school]) + rng.normal(size=n)
    return frame


def arrays(model: hlm.Model) -> hlm.Model:
    """The same model through the door of arrays."""
    design = model.design
    random = [
        hlm.Random(factor.labels[factor.codes], design.Z(factor.name), name=factor.name, effects=factor.effects)
        for factor in design.factors
    ]
    return hlm.Model.from_arrays(design.y, design.X, random, names=list(design.names), response=design.response)


def test_every_door_prints_the_same_equations(hsb: pd.DataFrame) -> None:
    model = hlm.Model(FULL, hsb)
    assert model.equations() == PRINTED
    assert arrays(model).equations() == PRINTED
    pupils, schools = hlm.datasets.load("hsb_pupils"), hlm.datasets.load("hsb_schools")
    again = hlm.Model.from_equations(PRINTED, pupils, school=schools)
    assert again.equations() == PRINTED
    assert again.fit().criterion == model.fit().criterion


def test_arrays_without_names() -> None:
    """Columns of Z are known by their values; from eleven regressors on the parts of an index are told apart."""
    rng = np.random.default_rng(1)
    X = np.column_stack([np.ones(200), rng.normal(size=(200, 11))])
    model = hlm.Model.from_arrays(rng.normal(size=200), X, [hlm.Random(np.arange(200) % 20, X[:, :2])])
    lines = model.equations().splitlines()
    assert lines[3:5] == ["b0 = g00 + u0[g]", "b1 = g10 + u1[g]"]
    assert lines[12:14] == ["b9 = g90", "b10 = g10_0"]
    assert r"\gamma_{10,0} \, \text{x10}_{ij}" in model.equations("latex")


def test_notations(hsb: pd.DataFrame) -> None:
    fit = hlm.Model("mathach ~ cses + meanses + (cses | school)", hsb).fit()
    assert fit.equations("unicode").splitlines() == [
        "Level 1",
        "  mathachᵢⱼ = β₀ⱼ + β₁ⱼ·csesᵢⱼ + εᵢⱼ",
        "Level 2 (school j)",
        "  β₀ⱼ = γ₀₀ + γ₀₁·meansesⱼ + u₀ⱼ",
        "  β₁ⱼ = γ₁₀ + u₁ⱼ",
        "Combined",
        "  mathachᵢⱼ = γ₀₀ + γ₀₁·meansesⱼ + γ₁₀·csesᵢⱼ + u₀ⱼ + u₁ⱼ·csesᵢⱼ + εᵢⱼ",
        "Distributions",
        "  εᵢⱼ ~ N(0, σ²)",
        "  (u₀ⱼ, u₁ⱼ) ~ N(0, T)",
    ]
    latex = fit.equations("latex")
    assert r"\beta_{0j} &= \gamma_{00} + \gamma_{01} \, \text{meanses}_{j} + u_{0j} \\" in latex
    assert latex.startswith("\\begin{align*}\n")
    assert latex.endswith("\n\\end{align*}")
    estimates = fit.equations(estimates=True).splitlines()
    assert estimates[3] == f"b0 = {fit.params['Intercept']:.6g} + {fit.params['meanses']:.6g}*meanses + u0[school]"
    assert "  β₀ⱼ = γ₀₀ + γ₀₁·meansesⱼ + u₀ⱼ" in fit._repr_html_()
    with pytest.raises(DataError, match="format must be one of 'text', 'unicode', 'latex', got 'pdf'"):
        fit.equations("pdf")


def test_names_of_columns_in_latex(hsb: pd.DataFrame) -> None:
    frame = hsb.rename(columns={"cses": "c_ses", "meanses": "b1"})
    model = hlm.Model("mathach ~ c_ses + b1 + (1 | school)", frame)
    assert r"\text{c\_ses}_{ij}" in model.equations("latex")
    # a coefficient is never called like a column
    assert "b1_*c_ses" in model.equations()
    again = hlm.Model.from_equations(model.equations(), frame)
    assert again.fit().criterion == pytest.approx(model.fit().criterion, rel=1e-12)


@pytest.mark.parametrize(
    "formula",
    [
        "y ~ 1",
        "y ~ x * z",
        "y ~ x * z * w + (x | school) + (x | district)",
        "y ~ x + x:w + (0 + x | school) + (1 | district)",
        "y ~ 0 + x + (0 + x | district/school)",
        "y ~ x * kind + poly(z, 2) + (x | school) + (z | district)",
        "y ~ x + z + strict + x:strict + (x | school) + (1 | examiner)",
        "y ~ log(x + 10) + I(z^2) + offset(w) + (1 | school) + (1 | district) + (w | examiner)",
        "y ~ strict * w + (1 | district:examiner) + (1 | district) + (1 | examiner)",
        "y ~ w + (z + kind | district)",
    ],
)
def test_what_is_printed_is_the_model(three: pd.DataFrame, formula: str) -> None:
    model = hlm.Model(formula, three)
    fit = model.fit()
    again = hlm.Model.from_equations(model.equations(), three)
    assert again.equations() == model.equations()
    # columns and factors may come in another order, so that sums are added up in another one
    assert again.fit().criterion == pytest.approx(fit.criterion, rel=1e-12)
    assert set(again.design.names) == set(model.design.names)
    for table in (model.coefficient_table, again.coefficient_table):
        assert table.index.is_unique
        assert table["coefficient"].is_unique
        assert list(table.index) in (list(model.design.names), list(again.design.names))


def test_three_levels(three: pd.DataFrame) -> None:
    model = hlm.Model("y ~ x * z + w + x:w + (x | school) + (z | district)", three)
    assert model.equations().splitlines()[:-2] == [
        "# level 1: rows",
        "y = p0 + p1*x + e",
        "# level 2: school",
        "p0 = b00 + b01*z + r0[school]",
        "p1 = b10 + b11*z + r1[school]",
        "# level 3: district",
        "b00 = g000 + g001*w + u00[district]",
        "b01 = g010 + u01[district]",
        "b10 = g100 + g101*w",
        "b11 = g110",
    ]
    assert "  π₀ⱼₖ = β₀₀ₖ + β₀₁ₖ·zⱼₖ + r₀ⱼₖ" in model.equations("unicode").splitlines()
    assert dict(model.coefficient_table["level"]) == {
        "Intercept": "intercept",
        "x": "level 1",
        "z": "level 2",
        "w": "level 3",
        "x:z": "cross-level",
        "x:w": "cross-level",
    }


def test_levels_of_columns(three: pd.DataFrame) -> None:
    model = hlm.Model("y ~ x + z + w + strict + kind + (1 | school) + (1 | district) + (1 | examiner)", three)
    assert dict(model.levels["level"]) == {"x": 1, "z": 2, "strict": 2, "kind": 2, "w": 3}
    assert dict(model.levels["unit"]) == {
        "x": "row",
        "z": "school",
        "strict": "examiner",
        "kind": "school",
        "w": "district",
    }
    assert model.levels.loc["w", "constant within"] == "school, district"


def test_structure(three: pd.DataFrame) -> None:
    model = hlm.Model("y ~ x + (1 | school) + (1 | district) + (1 | examiner)", three)
    structure = model.structure.set_index(["inner", "outer"])
    assert structure.loc[("school", "district"), "relation"] == "school nested in district"
    assert structure.loc[("district", "examiner"), "relation"] == "district crossed with examiner"
    pairs = len(three[["school", "examiner"]].drop_duplicates())
    row = structure.loc[("school", "examiner")]
    assert row["relation"] == "school partially crossed with examiner"
    assert (row["pairs met"], row["pairs possible"]) == (pairs, 48 * 5)
    several = int((three.groupby("school")["examiner"].nunique() > 1).sum())
    assert row["inner groups in several"] == several
    reused = three.assign(number=three["school"] // 8)
    model = hlm.Model("y ~ x + (1 | district) + (1 | number)", reused)
    assert ("number", "district") in model.level_structure.reused()
    assert "in each" in model.structure.loc[0, "numbered anew"]
    assert structure.loc[("school", "district"), "numbered anew"] == ""


def test_coefficients_of_a_unit_are_z_gamma_plus_u(hsb: pd.DataFrame) -> None:
    """β_j = 𝐙_j γ + u_j: rows of school j have (1, cses) β_j as their fitted values."""
    fit = hlm.Model(FULL, hsb).fit()
    for school in hsb["school"].unique()[:20]:
        rows = hsb[hsb["school"] == school]
        Z = fit.model.coefficient_matrix("school", school)
        assert Z.shape == (2, 6)
        w = rows.iloc[0]
        expected = np.kron(np.eye(2), [1.0, w["meanses"], w["sector"]])
        columns = ["Intercept", "meanses", "sector", "cses", "cses:meanses", "cses:sector"]
        assert np.array_equal(Z[columns], expected)
        beta = Z.to_numpy() @ fit.params.to_numpy() + fit.random_effects["school"].loc[school].to_numpy()
        fitted = np.column_stack([np.ones(len(rows)), rows["cses"]]) @ beta
        # the same sums in another order
        assert fitted == pytest.approx(fit.fittedvalues[rows.index].to_numpy(), rel=1e-12)
    # the module for empirical Bayes finds 𝐙_j from the columns alone
    estimates = fit.empirical_bayes("school").estimates
    for school in hsb["school"].unique():
        beta = fit.model.coefficient_matrix("school", school) @ fit.params + fit.random_effects["school"].loc[school]
        assert beta[estimates.columns].to_numpy() == pytest.approx(estimates.loc[school].to_numpy(), rel=1e-9)
    with pytest.raises(DesignError, match="no unit 'x' of level 'school'"):
        fit.model.coefficient_matrix("school", "x")
    with pytest.raises(DesignError, match="no level 'class'"):
        fit.model.coefficient_matrix("class", "x")


def test_fixed_columns_of_a_unit_are_its_lower_columns_times_z(three: pd.DataFrame) -> None:
    model = hlm.Model("y ~ x * z * w + kind + x:kind + (x | school) + (z | district)", three)
    X = pd.DataFrame(model.design.X, columns=list(model.design.names))
    for level in ("school", "district"):
        for unit in three[level].unique()[:5]:
            Z = model.coefficient_matrix(level, unit)
            rows = X[three[level] == unit]
            lower = [rows[name] if name in rows else rows["Intercept"] for name in Z.index]
            # products of the same numbers, multiplied in another order
            assert np.column_stack(lower) @ Z.to_numpy() == pytest.approx(rows.to_numpy(), rel=1e-12, abs=1e-14)


def test_a_level_without_random_effects() -> None:
    """Tables tell the level of a column also where nothing varies at random."""
    pupils, schools = hlm.datasets.load("hsb_pupils"), hlm.datasets.load("hsb_schools")
    text = "mathach = b0 + b1*cses\nb0 = g00 + g01*meanses\nb1 = g10 + g11*meanses"
    model = hlm.Model.from_equations(text, pupils, school=schools)
    assert dict(model.coefficient_table["level"]) == {
        "Intercept": "intercept",
        "cses": "level 1",
        "meanses": "level 2",
        "cses:meanses": "cross-level",
    }
    assert model.equations().startswith("# level 1: rows\nmathach = b0 + b1*cses + e\n# level 2: school\nb0 = g00")
    joined = hlm.datasets.load("hsb")
    assert model.fit().params.equals(hlm.Model("mathach ~ cses * meanses", joined).fit().params)


def test_crossed_reference_data() -> None:
    model = hlm.Model("diameter ~ 1 + (1 | plate) + (1 | sample)", reference("Penicillin"))
    assert model.equations().splitlines()[3] == "b0 = g00 + u0[plate] + r0[sample]"
    assert "plate crossed with sample" in set(model.structure["relation"])
