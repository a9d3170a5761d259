"""Tables of the examples in lmerTest's and pbkrtest's papers and manuals; split plots, whose tests are exact."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import hlm
from hlm.inference.kenward_roger import _matched

from ..reference import DATA, printed_data
from .test_against_r import RELATIVE

METHODS = {"satterthwaite": "satterthwaite", "kenward_roger": "kenward-roger"}


@cache
def values() -> dict[str, Any]:
    """R's results; see data/SOURCES.md."""
    return json.loads((DATA / "terms.json").read_text(encoding="utf-8"))


@cache
def table(name: str) -> pd.DataFrame:
    if name == "Machines":
        return printed_data(name)
    if name == "Oats":
        data = printed_data(name)
        return data.assign(nitrogen=data["nitro"].map("{:.1f}".format))
    return pd.read_csv(DATA / "terms" / f"{name}.csv", dtype=dict.fromkeys(values()["factors"][name], str))


@cache
def fitted(formula: str, dataset: str, reml: bool = True) -> hlm.Fit:
    return hlm.Model(formula, table(dataset)).fit(reml=reml)


def every(part: str) -> Any:
    """Parametrize over the models that have this part."""
    chosen = [model for model in values()["models"] if model.get(part)]
    return pytest.mark.parametrize("model", chosen, ids=lambda model: f"{model['dataset']}-{model['id']}")


def fit_of(model: dict[str, Any]) -> hlm.Fit:
    return fitted(model["formula"], model["dataset"])


@every("anova")
def test_tables_of_terms(model: dict[str, Any]) -> None:
    fit = fit_of(model)
    assert fit.criterion == pytest.approx(model["criterion"], abs=1e-7)
    for kind, methods in model["anova"].items():
        for method, expected in methods.items():
            found = fit.anova(kind, method=METHODS[method]).table.loc[expected["term"]]
            for column in ("num_df", "den_df", "F", "sum_sq", "mean_sq"):
                np.testing.assert_allclose(
                    found[column], expected[column], rtol=RELATIVE, err_msg=f"{kind} {method} {column}"
                )
            # p moves by about F dF times the degrees of freedom, relatively
            p, F = np.array(expected["p"]), np.array(expected["F"])
            assert (np.abs(found["p"] - p) <= RELATIVE * p * (1 + F * np.array(expected["num_df"]))).all()


@every("means")
def test_means_and_their_differences(model: dict[str, Any]) -> None:
    for variable, methods in model["means"].items():
        for method, expected in methods.items():
            means = fit_of(model).marginal_means(variable, method=METHODS[method])
            pairs = means.contrasts("pairs", adjust="none")
            for found, wanted in ((means.table, expected["means"]), (pairs, expected["pairs"])):
                for column in ("estimate", "se", "df", "lower", "upper"):
                    np.testing.assert_allclose(
                        found[column], wanted[column], rtol=RELATIVE, atol=1e-6, err_msg=f"{variable} {method} {column}"
                    )


@every("ranova")
def test_tests_of_random_effects(model: dict[str, Any]) -> None:
    """The statistic and the naive p; one variance at zero halves it (Self and Liang 1987) if no other is zero."""
    expected = model["ranova"]
    for formula, statistic, df, p in zip(
        expected["formula"], expected["statistic"], expected["df"], expected["p_naive"], strict=True
    ):
        found = hlm.compare(fitted(formula, model["dataset"]), fit_of(model))
        assert found.statistic == pytest.approx(statistic, rel=RELATIVE, abs=1e-6)
        assert found.df == df
        # a p-value far out in the tail moves by half of the change of the statistic, relatively
        assert found.naive_pvalue == pytest.approx(p, rel=RELATIVE * (1 + statistic), abs=1e-6)
        if df == 1 and statistic > 1e-6 and not fitted(formula, model["dataset"]).is_singular:
            assert found.pvalue == pytest.approx(found.naive_pvalue / 2, rel=1e-6)
        else:  # with other variances of zero the bound has as many more degrees of freedom
            assert found.pvalue <= stats.chi2.sf(statistic, df + 2)


@every("robust")
def test_cluster_robust_tests_of_terms(model: dict[str, Any]) -> None:
    view = fit_of(model).inference("CR2", cluster=model["robust"]["cluster"])
    for expected in model["robust"]["tests"]:
        found = view.test(expected["term"])
        assert found.statistic == pytest.approx(expected["statistic"], rel=RELATIVE), expected["term"]
        assert found.df_num == expected["df_num"]
        assert found.df_den == pytest.approx(expected["df_den"], rel=RELATIVE), expected["term"]
        assert found.pvalue == pytest.approx(expected["p"], rel=10 * RELATIVE), expected["term"]


@pytest.mark.parametrize("term", ["harvest", "sow"])
def test_sugar_in_beets(term: str) -> None:
    """pbkrtest's example: Kenward and Roger's F, and the parametric bootstrap within the Monte Carlo errors of both."""
    expected = values()["comparisons"][term]
    formula = "sugpct ~ block + sow + harvest + (1 | block:harvest)"
    found = fitted(formula, "beets").test(term, method="kenward-roger")
    assert found.statistic == pytest.approx(expected["F"], rel=RELATIVE)
    assert found.df_num == expected["num_df"]
    assert found.df_den == pytest.approx(expected["den_df"], rel=RELATIVE)
    assert found.pvalue == pytest.approx(expected["p"], rel=10 * RELATIVE)
    small = fitted(formula.replace(f" + {term}", ""), "beets", reml=False)
    compared = hlm.compare(small, fitted(formula, "beets", reml=False), "bootstrap", count=2000, seed=1)
    assert compared.statistic == pytest.approx(expected["lrt"], rel=RELATIVE)
    p = expected["bootstrap_p"]
    error = np.hypot(compared.error, np.sqrt(p * (1 - p) / expected["samples"]))
    assert abs(compared.pvalue - p) < 4 * error


def test_two_and_four_degrees_of_freedom() -> None:
    """Blocks and harvests are tested against each other: exactly, with two, where F has no mean."""
    data = table("beets")
    squares = dict(
        zip(
            ("mean", "block", "harvest", "plots"),
            mean_squares(data, "sugpct", [[], ["block"], ["harvest"], ["block", "harvest"]]),
            strict=True,
        )
    )
    found = fitted("sugpct ~ block + sow + harvest + (1 | block:harvest)", "beets").anova(method="kenward-roger").table
    assert found["den_df"].to_numpy() == pytest.approx([2, 20, 2], rel=1e-6)
    for term in ("block", "harvest"):
        assert found.loc[term, "F"] == pytest.approx(squares[term][0] / squares["plots"][0], rel=1e-6)


@pytest.mark.parametrize("q", [1, 2, 3, 6])
def test_moments_of_an_exact_test(q: int) -> None:
    """One mean square with d degrees of freedom in the denominator: A1 = 2q²/d and A2 = 2q/d give F(q, d) itself."""
    for d in (1, 2, 3, 4, 5, 17, 1000):
        for noise in (0.0, 1e-15, -1e-15, 3e-14):
            scale, df = _matched(2 * q * q / d * (1 + noise), 2 * q / d, q)
            assert df == pytest.approx(d, rel=1e-9), (d, noise)
            assert scale == pytest.approx(1, rel=1e-9), (d, noise)


# ---- balanced split plots: F is a ratio of mean squares, its degrees of freedom are whole ----------------------------


def mean_squares(data: pd.DataFrame, y: str, factors: list[list[str]]) -> list[tuple[float, int]]:
    """Mean square and degrees of freedom of each set of factors of a balanced layout, after those inside of it."""
    effects: dict[frozenset[str], tuple[pd.Series, int]] = {}
    out = []
    for names in factors:
        effect = data.groupby(names)[y].transform("mean") if names else pd.Series(data[y].mean(), data.index)
        df = len(data[names].drop_duplicates()) if names else 1
        for other, (less, count) in effects.items():
            if other < frozenset(names):
                effect, df = effect - less, df - count
        effects[frozenset(names)] = (effect, df)
        out.append((float((effect**2).sum() / df), df))
    return out


@pytest.mark.parametrize("method", METHODS.values())
def test_split_plot_of_oats(method: str) -> None:
    """Yates (1935): varieties against whole plots, nitrogen and the interaction against subplots."""
    data = table("Oats")
    B, V, N = "Block", "Variety", "nitrogen"
    factors = [[], [B], [V], [B, V], [N], [V, N]]
    squares = dict(
        zip(("mean", "blocks", V, "plots", N, f"{V}:{N}"), mean_squares(data, "yield", factors), strict=True)
    )
    total = ((data["yield"] - data["yield"].mean()) ** 2).sum()
    used = sum(square * df for name, (square, df) in squares.items() if name != "mean")
    rest = (total - used) / 45
    found = fitted("yield ~ Variety * nitrogen + (1 | Block/Variety)", "Oats").anova("III", method=method).table
    assert found["den_df"].to_numpy() == pytest.approx([10, 45, 45], rel=1e-5)
    for name, against, df in ((V, squares["plots"][0], 10), (N, rest, 45), (f"{V}:{N}", rest, 45)):
        square, num = squares[name]
        assert found.loc[name, "F"] == pytest.approx(square / against, rel=1e-6)
        assert found.loc[name, "p"] == pytest.approx(stats.f.sf(square / against, num, df), rel=1e-4)


@pytest.mark.parametrize("method", METHODS.values())
def test_machines_against_their_interaction_with_workers(method: str) -> None:
    factors = [[], ["Worker"], ["Machine"], ["Worker", "Machine"]]
    squares = mean_squares(table("Machines"), "score", factors)
    row = fitted("score ~ Machine + (1 | Worker/Machine)", "Machines").anova("III", method=method).table.iloc[0]
    assert squares[3][1] == 10
    assert row["den_df"] == pytest.approx(10, rel=1e-5)
    assert row["F"] == pytest.approx(squares[2][0] / squares[3][0], rel=1e-6)
