"""The reference data themselves: complete, read as R read them, and true where plain linear algebra can tell."""

from __future__ import annotations

import itertools
import math
import re

import numpy as np
import pandas as pd
import pytest

from .reference import DATA, ReferenceModel, datasets, description, frame, model, models, published

ALL = pytest.mark.parametrize("reference", models(), ids=str)


def test_what_is_there():
    assert len(datasets()) == 30
    assert len(models()) == 125
    assert sum(path.stat().st_size for path in (DATA / "reference").iterdir()) < 2.5e6


@pytest.mark.parametrize("dataset", datasets())
def test_columns_are_read_as_r_had_them(dataset):
    about, data = description(dataset), frame(dataset)
    assert len(data) == about["n_rows"]
    columns = about["columns"] | about.get("join", {}).get("columns", {})
    assert set(data.columns) == set(columns)
    assert data.isna().any(axis=None) == (dataset == "star")
    for name, spec in columns.items():
        if spec["type"] == "numeric":
            assert data[name].dtype == np.float64
        else:
            levels = list(data[name].cat.categories)
            assert len(levels) == spec["n_levels"]
            assert levels == sorted(levels, key=str.encode)
            assert not data[name].cat.ordered


def test_a_changed_frame_changes_no_other():
    changed = frame("Rail")
    changed["travel"] = 0.0
    assert frame("Rail")["travel"].min() > 0


def test_text_that_looks_like_something_else_stays_text():
    assert "None" in frame("Alfalfa")["Date"].cat.categories
    assert list(frame("sleepstudy")["Subject"].cat.categories)[:2] == ["308", "309"]
    assert frame("Meat")["Storage"].cat.categories[0] == " 0"


def test_join_keeps_the_pupils_and_takes_the_schools_columns():
    data = frame("MathAchieve")
    assert len(data) == 7185
    assert (data.groupby("School", observed=True)["MEANSES"].nunique() == 1).all()
    school = data[data["School"] == "1224"].iloc[0]
    assert (school["Size"], school["Sector"], school["MEANSES"]) == (842.0, "Public", -0.428)


def test_dialyzer_weights_are_the_inverse_pressure():
    data = frame("Dialyzer")
    np.testing.assert_array_equal(data["inv_pressure"], 1 / data["pressure"])


def used(reference: ReferenceModel) -> pd.DataFrame:
    """Return the rows without a missing value in what the formula names; R leaves out the others."""
    data = frame(reference.dataset)
    return data.dropna(subset=[name for name in re.findall(r"\w+", reference.result["formula"]) if name in data])


@ALL
def test_model_is_of_its_data(reference: ReferenceModel):
    result, data = reference.result, used(reference)
    assert result["n"] == len(data)
    assert result["reml"] == reference.id.endswith(".REML")
    for factor, count in result["n_levels"].items():
        assert len(data[factor.split(":")].drop_duplicates()) == count
        assert result["ranef"][factor]["n_levels"] == count
    response = result["formula"].split(" ~ ")[0]
    if response in data:
        rows = result["rows"]
        # 15 significant digits of two summands
        fitted = np.array(rows["fitted"]) + np.array(rows["residual"])
        np.testing.assert_allclose(fitted, data[response].loc[rows["index0"]], rtol=1e-13, atol=1e-13)


@ALL
def test_factors_are_nested_or_crossed(reference: ReferenceModel):
    data = used(reference)
    levels = reference.result["n_levels"]
    chain = [factor.split(":") for factor in sorted(levels, key=levels.__getitem__, reverse=True)]
    pairs = [data[list(dict.fromkeys(fine + coarse))].drop_duplicates() for fine, coarse in itertools.pairwise(chain)]
    nested = [not parents.duplicated(fine).any() for parents, fine in zip(pairs, chain, strict=False)]
    assert all(nested) is not reference.crossed


@ALL
def test_fit_statistics_agree_with_each_other(reference: ReferenceModel):
    result = reference.result
    p, m = len(result["fixef"]["values"]), len(result["theta"]["values"])
    assert result["df"] == p + m + 1
    # 15 significant digits of each number
    assert result["logLik"] == pytest.approx(-result["criterion"] / 2, rel=1e-13)
    assert result["AIC"] == pytest.approx(result["criterion"] + 2 * result["df"], rel=1e-13)
    assert result["BIC"] == pytest.approx(result["criterion"] + math.log(result["n"]) * result["df"], rel=1e-13)
    assert np.shape(result["vcov"]) == (p, p)


def dense_fit(y: np.ndarray, X: np.ndarray, Z: np.ndarray, L: np.ndarray, group: pd.Series, reml: bool):
    """Return criterion, sigma and β̂ at the relative factor L from the n x n covariance: the textbook's formulas."""
    same = group.to_numpy()[:, None] == group.to_numpy()[None, :]
    V = np.eye(len(y)) + np.where(same, (Z @ L) @ (Z @ L).T, 0.0)
    information = X.T @ np.linalg.solve(V, X)
    beta = np.linalg.solve(information, X.T @ np.linalg.solve(V, y))
    residual = y - X @ beta
    df = len(y) - X.shape[1] * reml
    variance = residual @ np.linalg.solve(V, residual) / df
    criterion = np.linalg.slogdet(V)[1] + df * (1 + math.log(2 * math.pi * variance))
    return criterion + reml * np.linalg.slogdet(information)[1], math.sqrt(variance), beta


@pytest.mark.parametrize("criterion", ["REML", "ML"])
@pytest.mark.parametrize(
    ("dataset", "id", "response", "group", "covariates"),
    [
        ("Dyestuff", "ri", "Yield", "Batch", []),
        ("Rail", "ri", "travel", "Rail", []),
        ("sleepstudy", "rs", "Reaction", "Subject", ["Days"]),
    ],
)
def test_criterion_by_dense_algebra(dataset, id, response, group, covariates, criterion):
    result, data = model(dataset, f"{id}.{criterion}").result, frame(dataset)
    X = np.column_stack([np.ones(len(data)), *(data[name] for name in covariates)])
    L = np.zeros((X.shape[1], X.shape[1]))
    column, row = np.triu_indices(len(L))  # the lower triangle, column by column
    L[row, column] = result["theta"]["values"]
    value, sigma, beta = dense_fit(data[response].to_numpy(), X, X, L, data[group], result["reml"])
    assert value == pytest.approx(result["criterion"], abs=1e-8)
    # theta has 15 digits and the optimum is flat in it
    assert sigma == pytest.approx(result["sigma"], rel=1e-9)
    np.testing.assert_allclose(beta, result["fixef"]["values"], rtol=1e-9)


def test_published_entries_carry_their_citation():
    entry = published("pb_rail_reml")
    assert "Pinheiro & Bates 2000" in entry["source"]
    assert float(entry["printed"]["fit"]["logLik"]) == pytest.approx(
        model(entry["dataset"], "ri.REML").result["logLik"], abs=5e-4
    )  # printed to 3 decimals
    assert "SmLs09" in published("nist_smls")["printed"]


def test_unknown_published_entry():
    with pytest.raises(KeyError):
        published("nothing")
