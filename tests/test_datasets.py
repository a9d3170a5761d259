"""The shipped data sets: shapes, printed summaries, agreement with R's copies, and the simulated one made again."""

from __future__ import annotations

from importlib import resources

import numpy as np
import pandas as pd
import pytest

from hlm import datasets
from hlm.datasets import make_instructors
from hlm.errors import DataError

from .reference import frame, published


def printed(text: str) -> object:
    """Return the printed number, equal to what lies within half a unit of its last digit."""
    return pytest.approx(float(text), abs=0.5000001 * 10.0 ** -len(text.split(".")[1]))


def test_names():
    assert datasets.names() == ["hsb", "hsb_pupils", "hsb_schools", "instructors", "sleepstudy"]


def test_unknown_name_lists_the_known():
    with pytest.raises(DataError) as caught:
        datasets.load("nothing")
    assert all(name in str(caught.value) for name in datasets.names())


@pytest.mark.parametrize("name", datasets.names())
def test_complete_and_new_at_each_call(name):
    first = datasets.load(name)
    assert not first.isna().any(axis=None)
    first.iloc[:, 1] = first.iloc[0, 1]
    first["more"] = 0
    assert list(datasets.load(name).columns) == list(first.columns[:-1])
    assert datasets.load(name).iloc[:, 1].nunique() > 1


@pytest.mark.parametrize(
    ("name", "shape", "columns"),
    [
        ("hsb_pupils", (7185, 6), "school minority female ses cses mathach"),
        ("hsb_schools", (160, 7), "school size sector pracad disclim himinty meanses"),
        ("hsb", (7185, 12), "school minority female ses cses mathach size sector pracad disclim himinty meanses"),
        ("sleepstudy", (180, 3), "Reaction Days Subject"),
        ("instructors", (627, 6), "department instructor experience class_size research teaching_rating"),
    ],
)
def test_shape(name, shape, columns):
    data = datasets.load(name)
    assert data.shape == shape
    assert list(data.columns) == columns.split()


@pytest.mark.parametrize(
    ("name", "column", "first"),
    [("hsb", "school", "1224"), ("sleepstudy", "Subject", "308"), ("instructors", "department", "D01")],
)
def test_identifiers_are_text(name, column, first):
    assert datasets.load(name)[column].iloc[0] == first


def test_hsb_summaries_as_printed():
    tables = published("hsb_desc")["printed"]
    pupils, schools = datasets.load("hsb_pupils"), datasets.load("hsb_schools")
    columns = {
        "MATHACH": pupils["mathach"],
        "SES": pupils["ses"],
        "SECTOR (160 schools)": schools["sector"],
        "MEANSES (160 schools)": schools["meanses"],
    }
    assert set(columns) == set(tables)
    for name, values in columns.items():
        assert values.mean() == printed(tables[name]["mean"])
        assert values.std() == printed(tables[name]["sd"])


def test_hsb_join():
    data, pupils = datasets.load("hsb"), datasets.load("hsb_pupils")
    schools = datasets.load("hsb_schools").set_index("school")
    assert data["school"].nunique() == len(schools) == 160
    pd.testing.assert_frame_equal(data[pupils.columns], pupils)
    for column in schools.columns:
        np.testing.assert_array_equal(data[column], schools[column].loc[data["school"]])
    # centred on the schools' MEANSES column; all three have 3 decimals
    np.testing.assert_array_equal(data["cses"], (data["ses"] - data["meanses"]).round(3))


def test_hsb_is_rs_copy():
    data, r = datasets.load("hsb"), frame("MathAchieve")
    indicators = {
        "minority": r["Minority"] == "Yes",
        "female": r["Sex"] == "Female",
        "sector": r["Sector"] == "Catholic",
        "himinty": r["HIMINTY"] == "1",
    }
    for column, values in indicators.items():
        np.testing.assert_array_equal(data[column], values.astype(int))
    for column in ("SES", "MathAch", "Size", "PRACAD", "DISCLIM", "MEANSES"):
        np.testing.assert_array_equal(data[column.lower()], r[column])
    assert list(data["school"]) == list(r["School"])


def test_sleepstudy_is_rs_copy():
    data, r = datasets.load("sleepstudy"), frame("sleepstudy")
    np.testing.assert_array_equal(data[["Reaction", "Days"]], r[["Reaction", "Days"]])
    assert list(data["Subject"]) == list(r["Subject"])


def test_instructors_made_again(tmp_path):
    pd.testing.assert_frame_equal(make_instructors.simulate(), datasets.load("instructors"), check_exact=True)
    make_instructors.write(tmp_path / "again.csv")
    shipped = resources.files("hlm.datasets").joinpath("instructors.csv")
    assert (tmp_path / "again.csv").read_text() == shipped.read_text()


def test_instructors_are_nested_and_rated_on_the_scale():
    data = datasets.load("instructors")
    assert data["instructor"].is_unique
    assert data["department"].nunique() == make_instructors.DEPARTMENTS
    assert (data.groupby("department")["research"].nunique() == 1).all()
    assert data["teaching_rating"].between(1, 5).all()


def test_instructors_come_from_the_stated_model():
    m, data = make_instructors, datasets.load("instructors")
    experience, research = data["experience"], data["research"]
    residual = data["teaching_rating"] - (
        m.INTERCEPT
        + m.EXPERIENCE * experience
        + m.CLASS_SIZE * data["class_size"]
        + m.RESEARCH * research
        + m.EXPERIENCE_RESEARCH * experience * research
    )
    covariance = m.CORRELATION * m.SD_INTERCEPT * m.SD_EXPERIENCE
    T = np.array([[m.SD_INTERCEPT**2, covariance], [covariance, m.SD_EXPERIENCE**2]])
    distance = 0.0
    for _, rows in data.groupby("department"):
        Z = np.column_stack([np.ones(len(rows)), rows["experience"]])
        r = residual[rows.index].to_numpy()
        distance += r @ np.linalg.solve(Z @ T @ Z.T + m.SIGMA**2 * np.eye(len(r)), r)
    n = len(data)
    assert abs(distance - n) < 3 * np.sqrt(2 * n)  # chi-squared with n degrees of freedom, within 3 standard deviations
