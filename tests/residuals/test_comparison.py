"""Likelihood-ratio tests of structures of the level-1 errors, and which of them lie in each other."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import chi2

import hlm
from hlm.comparison.errors import contained
from hlm.residuals import AR1, ByStratum, CompoundSymmetry, LogLinear, Residual, Unstructured

from ..reference import frame


@pytest.fixture(scope="module")
def growth() -> pd.DataFrame:
    data = frame("Orthodont")
    data["age"] = data["age"].astype(int)
    data["late"] = data["age"] > 10
    data["cell"] = data["Sex"].astype(str) + data["age"].astype(str)
    data["time"] = data["age"] / 10
    data["half"] = np.arange(len(data)) % 2
    return data


GROUP = "Subject"
STRUCTURES: dict[str, Residual] = {
    "sex": ByStratum("Sex"),
    "late": ByStratum("late"),
    "age": ByStratum("age"),
    "cell": ByStratum("cell"),
    "log": LogLinear("~ age"),
    "log2": LogLinear("~ age + Sex"),
    "ar1": AR1("age", GROUP),
    "steps": AR1(group=GROUP),
    "car1": AR1("time", GROUP),
    "cs": CompoundSymmetry(GROUP),
    "ar1*age": AR1("age", GROUP, ByStratum("age")),
    "ar1*cell": AR1("age", GROUP, ByStratum("cell")),
    "cs*late": CompoundSymmetry(GROUP, ByStratum("late")),
    "any": Unstructured("age", GROUP),
}
# by their definitions: what each one lies in, itself and nothing apart
INSIDE = {
    "sex": ["cell", "log2", "ar1*cell"],
    "late": ["age", "cell", "ar1*age", "ar1*cell", "cs*late", "any"],
    "age": ["cell", "ar1*age", "ar1*cell", "any"],
    "cell": ["ar1*cell"],
    "log": ["age", "cell", "log2", "ar1*age", "ar1*cell", "any"],
    "log2": ["cell", "ar1*cell"],
    "ar1": ["ar1*age", "ar1*cell", "any"],
    "steps": ["any"],
    "car1": ["any"],
    "cs": ["cs*late", "any"],
    "ar1*age": ["ar1*cell", "any"],
    "ar1*cell": [],
    "cs*late": ["any"],
    "any": [],
}


def test_which_structure_lies_in_which(growth: pd.DataFrame) -> None:
    bound = {name: hlm.Model("distance ~ age", growth, residual=STRUCTURES[name]).design.residual for name in INSIDE}
    for small, inside in INSIDE.items():
        found = {large for large in INSIDE if large != small and contained(bound[small], bound[large])}
        assert found == set(inside), small
        assert contained(bound[small], bound[small])
        assert contained(None, bound[small])
        assert not contained(bound[small], None)


def test_distances_that_differ_between_groups(growth: pd.DataFrame) -> None:
    """Occasions that are not equally far apart in all groups: AR(1) is no covariance of occasions."""
    moved = growth.assign(age=growth["age"] + (growth["Sex"] == "Male") * (growth["age"] > 10))
    wave = growth["age"].to_numpy()
    bound = [
        hlm.Model("distance ~ 1", moved, residual=residual).design.residual
        for residual in (AR1("age", GROUP), Unstructured(wave, GROUP), ByStratum("age"), AR1(wave, GROUP))
    ]
    assert not contained(bound[0], bound[1])
    assert not contained(bound[2], bound[1])
    assert contained(bound[3], bound[1])


@pytest.mark.parametrize(
    ("small", "large", "df"),
    [
        (None, "sex", 1),
        (None, "ar1*age", 4),
        ("late", "age", 2),
        ("ar1", "any", 8),
        ("ar1", "ar1*age", 3),
        ("cs", "any", 8),
    ],
)
@pytest.mark.parametrize("reml", [True, False], ids=["REML", "ML"])
def test_statistic(growth: pd.DataFrame, small: str | None, large: str, df: int, reml: bool) -> None:
    fits = [
        hlm.Model("distance ~ age * Sex", growth, residual=STRUCTURES[name] if name else None).fit(reml=reml)
        for name in (small, large)
    ]
    found = hlm.compare(fits[1], fits[0])
    assert found.df == df
    assert found.statistic == pytest.approx(fits[0].criterion - fits[1].criterion, abs=1e-9)
    assert found.pvalue == pytest.approx(chi2.sf(found.statistic, df), rel=1e-9)
    assert found.distribution == f"χ²({df})"
    if small is None:
        assert fits[1].residual.homogeneity.pvalue == pytest.approx(found.pvalue, rel=1e-6)


def test_beside_random_and_fixed_effects(growth: pd.DataFrame) -> None:
    small = hlm.Model("distance ~ age + (1 | Subject)", growth, residual=ByStratum("Sex")).fit(reml=False)
    large = hlm.Model("distance ~ age * Sex + (1 | Subject)", growth, residual=AR1(variance=ByStratum("Sex"))).fit(
        reml=False
    )
    found = hlm.compare(small, large)
    assert found.df == 3
    assert found.pvalue == pytest.approx(chi2.sf(small.criterion - large.criterion, 3), rel=1e-9)


def test_continuous_time_has_independent_errors_at_its_end() -> None:
    data = frame("Ovary")
    formula = "follicles ~ sin(2 * pi * Time) + cos(2 * pi * Time) + (1 | Mare)"
    small, large = hlm.Model(formula, data).fit(), hlm.Model(formula, data, residual=AR1("Time")).fit()
    found = hlm.compare(small, large)
    assert found.distribution == "0.5·χ²(0) + 0.5·χ²(1)"
    assert found.pvalue == pytest.approx(0.5 * chi2.sf(found.statistic, 1), rel=1e-9)
    assert large.residual.homogeneity.pvalue == pytest.approx(found.pvalue, rel=1e-6)
    both = hlm.Model(formula, data, residual=AR1("Time", variance=LogLinear("~ Time"))).fit()
    found = hlm.compare(small, both)
    expected = 0.5 * chi2.sf(found.statistic, 1) + 0.5 * chi2.sf(found.statistic, 2)
    assert found.pvalue == pytest.approx(expected, rel=1e-9)
    assert both.residual.homogeneity.pvalue == pytest.approx(expected, rel=1e-6)
    assert hlm.compare(large, both).distribution == "χ²(1)"


def test_refused(growth: pd.DataFrame) -> None:
    def fit(name: str | None, random: str = "") -> hlm.Fit:
        return hlm.Model("distance ~ age" + random, growth, residual=STRUCTURES[name] if name else None).fit()

    with pytest.raises(hlm.DesignError, match=r"not nested: AR\(1\) in groups is not a case of a variance for each"):
        hlm.compare(fit("ar1"), fit("cell"))
    with pytest.raises(hlm.DesignError, match="tests of variances of random effects are not offered"):
        hlm.compare(fit("late"), fit("late", " + (1 | Subject)"))
    with pytest.raises(hlm.DesignError, match="not for the level-1 errors"):
        hlm.compare(fit(None), fit("sex"), method="exact")


def test_bootstrap(growth: pd.DataFrame) -> None:
    small, large = (
        hlm.Model("distance ~ age", growth, residual=residual).fit() for residual in (None, ByStratum("Sex"))
    )
    found = hlm.compare(small, large, method="bootstrap", count=200, seed=1)
    p = hlm.compare(small, large).pvalue
    # 200 samples, and a null distribution that is nearly χ²
    assert found.pvalue == pytest.approx(p, abs=4 * np.sqrt(p / 200) + 0.02)
