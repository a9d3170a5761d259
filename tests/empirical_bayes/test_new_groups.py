"""Effects of groups that the fit has not seen, against dense algebra at the fit's parameters."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
import pytest

import hlm
from hlm.empirical_bayes import new_groups

FORMULAS = {
    "two levels": "y ~ x * w + (x | school)",
    "three levels": "y ~ x + w + (x | district/school)",
    "four levels": "y ~ x + (1 | region/district/school)",
    "uncorrelated": "log(y) ~ x + (x || school)",
}


def data(seed: int, first: int, regions: int = 4) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    district = np.repeat(np.arange(regions), rng.integers(3, 6, regions))
    school = np.repeat(np.arange(len(district)), rng.integers(2, 5, len(district)))
    rows = np.repeat(np.arange(len(school)), rng.integers(1, 7, len(school)))
    region, districts, schools = district[school][rows], school[rows], rows
    x, w = 50 + rng.normal(size=len(rows)), rng.normal(size=len(school))[rows]
    y = 20 + x + rng.normal(size=regions)[region] + rng.normal(size=len(district))[districts]
    y += rng.normal(size=(len(school), 2))[rows] @ [1, 0] + 0.5 * rng.normal(size=len(school))[rows] * (x - 50)
    y += rng.normal(size=len(rows))
    table = pd.DataFrame({"y": y, "x": x, "w": w, "region": region + first, "district": districts + 100 * first})
    table["school"] = schools + 1000 * first
    return table.sample(frac=1, random_state=seed).reset_index(drop=True)


def dense(
    fit: hlm.Fit, formula: str, new: pd.DataFrame, weights: np.ndarray | None = None
) -> dict[str, tuple[list[object], np.ndarray, np.ndarray]]:
    """Labels, û and Cov(u - û) of each factor, from n × n matrices over the new rows."""
    design = hlm.Model(formula, new).design
    n, sigma2 = design.rows, fit.sigma**2
    V = np.diag(sigma2 / (np.ones(n) if weights is None else weights))
    wide = {}
    for factor in design.factors:
        q = factor.width
        full = np.zeros((n, factor.size * q))
        for j, column in enumerate(factor.columns):
            full[np.arange(n), factor.codes * q + j] = column
        T = np.kron(np.eye(factor.size), fit.covariances[factor.name])
        V += full @ T @ full.T
        wide[factor.name] = (full, T)
    inverse = np.linalg.inv(V)
    residual = design.y - design.X @ fit.params.to_numpy()
    out = {}
    for factor in design.factors:
        full, T = wide[factor.name]
        gain = T @ full.T @ inverse
        cov = T - gain @ full @ T + gain @ design.X @ fit.cov_params().to_numpy() @ design.X.T @ gain.T
        q = factor.width
        blocks = np.array([cov[j * q : (j + 1) * q, j * q : (j + 1) * q] for j in range(factor.size)])
        out[factor.name] = (factor.labels.tolist(), (gain @ residual).reshape(-1, q), blocks)
    return out


@pytest.mark.parametrize("name", FORMULAS)
def test_against_dense_algebra(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fit = hlm.Model(FORMULAS[name], data(0, 1, 6)).fit()
    new = data(1, 50)
    whole = fit.score_groups(new)
    monkeypatch.setattr(new_groups, "PORTION", 5)  # several portions, whatever the size
    parts = fit.score_groups(new)
    for factor, (labels, effects, cov) in dense(fit, FORMULAS[name], new).items():
        got = parts[factor]
        assert got.effects.index.tolist() == labels
        assert list(got.effects.columns) == list(fit.covariances[factor].columns)
        # x is near 50 with a spread of 1: the dense matrices lose some digits
        np.testing.assert_allclose(got.effects, effects, rtol=1e-6, atol=1e-8)
        np.testing.assert_allclose(got.cov, cov, rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(got.bse**2, np.diagonal(cov, axis1=1, axis2=2), rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(whole[factor].effects, got.effects, rtol=1e-10, atol=1e-12)
        assert got.n.sum() == len(new)


def test_rows_with_missing_values_count_for_nothing() -> None:
    fit = hlm.Model(FORMULAS["three levels"], data(0, 1, 6)).fit()
    new = data(1, 50)
    gone = new["school"] == new["school"].iloc[0]
    gone[3:20:4] = True
    with_gaps = new.copy()
    with_gaps.loc[gone, "y"] = np.nan
    with_gaps.loc[3, ["y", "x"]] = 1.0, np.nan
    full, got = fit.score_groups(new[~gone]), fit.score_groups(with_gaps)
    for factor, table in full.items():
        there = got[factor].effects.index.isin(table.effects.index)
        np.testing.assert_allclose(got[factor].effects[there], table.effects, rtol=1e-9, atol=1e-12)
        np.testing.assert_array_equal(got[factor].n[there], table.n)
    empty = got["district:school"].n == 0
    assert empty.any()
    # its district was seen; of itself there is nothing but what its like have
    np.testing.assert_allclose(got["district:school"].effects[empty], 0, atol=1e-12)
    T = fit.covariances["district:school"].to_numpy()
    np.testing.assert_allclose(got["district:school"].cov[empty.to_numpy()], np.broadcast_to(T, (empty.sum(), 2, 2)))


def test_arrays_weights_and_offset() -> None:
    table, new = data(0, 1, 6), data(1, 50)
    weights = np.random.default_rng(0).uniform(0.5, 2, len(new))
    formula = "y ~ x + (x | school)"
    fit = hlm.Model(formula, table, weights=np.ones(len(table))).fit()
    labels, effects, cov = dense(fit, formula, new, weights)["school"]
    got = fit.score_groups(new.assign(p=weights), weights="p")["school"]
    assert got.effects.index.tolist() == labels
    np.testing.assert_allclose(got.effects, effects, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(got.cov, cov, rtol=1e-6, atol=1e-7)
    with pytest.raises(hlm.errors.DataError, match="has weights"):
        fit.score_groups(new)

    def arrays(rows: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, list[hlm.Random]]:
        X = np.column_stack([np.ones(len(rows)), rows["x"]])
        return rows["y"].to_numpy(), X, [hlm.Random(rows["school"], X, name="school")]

    plain = hlm.Model.from_arrays(*arrays(table)).fit()
    by_formula = hlm.Model(formula, table).fit().score_groups(new)["school"]
    np.testing.assert_allclose(plain.score_groups(arrays(new))["school"].effects, by_formula.effects, rtol=1e-9)
    shifted = hlm.Model("y ~ x + offset(w) + (x | school)", table.assign(y=table["y"] + table["w"])).fit()
    moved = shifted.score_groups(new.assign(y=new["y"] + new["w"]))["school"]
    np.testing.assert_allclose(moved.effects, by_formula.effects, rtol=1e-6, atol=1e-9)
    with pytest.raises(hlm.errors.DataTypeError, match="y, X"):
        plain.score_groups(arrays(new)[1:])


def test_stream() -> None:
    fit = hlm.Model(FORMULAS["two levels"], data(0, 1, 6)).fit()
    chunks = [data(seed, 50 * (seed + 1)) for seed in range(3)]

    def stream() -> Iterator[pd.DataFrame]:
        yield from chunks

    found = list(fit.score_stream(stream()))
    together = fit.score_groups(pd.concat(chunks, ignore_index=True))["school"]
    np.testing.assert_allclose(
        pd.concat([part["school"].effects for part in found]).loc[together.effects.index],
        together.effects,
        rtol=1e-9,
        atol=1e-12,
    )
    split = [chunks[0].iloc[:30], chunks[0].iloc[30:]]
    with pytest.raises(hlm.errors.DataError, match="rows in several chunks"):
        list(fit.score_stream(split))


def test_what_cannot_be_scored() -> None:
    table = data(0, 1, 6)
    fit = hlm.Model(FORMULAS["two levels"], table).fit()
    with pytest.raises(hlm.errors.DataError, match="was in the fit") as error:
        fit.score_groups(table)
    assert error.value.column == "school"
    again = fit.score_groups(table, seen="new")["school"]
    # the rows of the fit once more: the same û, since γ̂ is the same
    np.testing.assert_allclose(again.effects, fit.random_effects["school"], rtol=1e-6, atol=1e-9)
    with pytest.raises(hlm.errors.DataError, match="seen must be"):
        fit.score_groups(table, seen="known")
    with pytest.raises(hlm.errors.DesignError, match="nothing to estimate"):
        hlm.Model("y ~ x", table).fit().score_groups(table)
    nested = hlm.Model("y ~ x + (1 | district) + (1 | school)", table).fit()
    new = data(1, 50)
    new.loc[0, "district"] = 999999
    with pytest.raises(hlm.errors.DesignError, match="nested as in the fit"):
        nested.score_groups(new)
    new = data(1, 50).astype({"school": object})
    new.loc[5, "school"] = None
    with pytest.raises(hlm.errors.DataError, match="missing in row 5"):
        fit.score_groups(new)
    new = data(1, 50)
    new.loc[5, "y"] = np.inf
    with pytest.raises(hlm.errors.DataError, match="infinite"):
        fit.score_groups(new)
    crossed = hlm.Model("y ~ x + (1 | region) + (1 | w2)", table.assign(w2=np.arange(len(table)) % 5)).fit()
    with pytest.raises(hlm.errors.DesignError, match="crossed"):
        crossed.score_groups(table)
