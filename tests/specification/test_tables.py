"""One table a level, joined inside."""

import numpy as np
import pandas as pd
import pytest

import hlm
from hlm.errors import DataError, DataTypeError, DesignError

from .test_equations import same

TEXT = """
    y  = b0 + b1*x
    b0 = g00 + g01*z + u0[school]
    b1 = g10 + g11*z + u1[school]
    g00 = d0 + d1*income + v[district]
"""


@pytest.fixture
def tables() -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """500 pupils, 50 schools in an order of their own, 8 districts."""
    rng = np.random.default_rng(11)
    districts = pd.DataFrame({"district": [f"d{k}" for k in range(8)], "income": rng.normal(size=8)})
    order = rng.permutation(50)
    schools = pd.DataFrame({"school": order + 100, "z": rng.normal(size=50), "district": [f"d{k % 8}" for k in order]})
    pupils = pd.DataFrame({"school": rng.permutation(500) % 50 + 100, "x": rng.normal(size=500)})
    joined = join(pupils, schools, districts)
    u = rng.normal(size=(50, 2))[joined["school"] - 100]
    v = rng.normal(size=8)[joined["district"].str[1:].astype(int)]
    pupils["y"] = joined["income"] + v + u[:, 0] + (1 + joined["z"] + u[:, 1]) * pupils["x"] + rng.normal(size=500)
    return pupils, schools, districts


def join(pupils: pd.DataFrame, schools: pd.DataFrame, districts: pd.DataFrame) -> pd.DataFrame:
    """The independent join."""
    return pupils.merge(schools, on="school", how="left").merge(districts, on="district", how="left")


def test_tables_are_joined(tables: tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]) -> None:
    pupils, schools, districts = tables
    before = [frame.copy() for frame in tables]
    model = hlm.Model.from_equations(TEXT, pupils, school=schools, district=districts)
    together = hlm.Model.from_equations(TEXT, join(*tables))
    same(model, together)
    same(model, hlm.Model("y ~ x * z + income + (x | school) + (1 | district)", join(*tables)))
    assert all(frame.equals(old) for frame, old in zip(tables, before, strict=True))
    fit = model.fit()
    expected = together.fit().predict(join(*tables))
    for new in (join(*tables), pupils, pupils[["school", "x"]], (pupils, {"school": schools})):
        assert np.array_equal(fit.predict(new), expected)
    # a school that was not in the fit, with a table of its own
    other = pd.DataFrame({"school": [900], "x": [0.5]})
    its = pd.DataFrame({"school": [900], "z": [2.0], "district": ["d3"]})
    values = fit.predict((other, {"school": its}), new_levels="population")
    row = other.assign(z=2.0, district="d3", income=districts["income"][3])
    assert np.array_equal(values, fit.predict(row, new_levels="population"))
    with pytest.raises(DataError, match="school 900 of row 0 is not in the table"):
        fit.predict(other, new_levels="population")


def test_keys_of_all_levels_in_the_first_table(tables: tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]) -> None:
    pupils, schools, districts = tables
    pupils = pupils.merge(schools[["school", "district"]], on="school", how="left")
    schools = schools.drop(columns="district")
    same(
        hlm.Model.from_equations(TEXT, pupils, school=schools, district=districts),
        hlm.Model.from_equations(TEXT, join(*tables)),
    )


def test_other_kinds_of_tables(tables: tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]) -> None:
    pl = pytest.importorskip("polars")
    pupils, schools, districts = tables
    model = hlm.Model.from_equations(
        TEXT,
        pl.DataFrame({name: pupils[name].to_numpy() for name in pupils}),
        school=schools.to_dict("list"),
        district=pl.DataFrame({name: list(districts[name]) for name in districts}).lazy(),
    )
    same(model, hlm.Model.from_equations(TEXT, join(*tables)))


def test_columns_that_are_not_floats(tables: tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]) -> None:
    pupils, schools, districts = tables
    schools["kind"] = np.where(schools["z"] > 0, "public", "private")
    schools["size"] = np.arange(50)
    schools["flag"] = pd.array(schools["z"] > 0.5, dtype="boolean")
    text = "y = b0\nb0 = g0 + g1*kind + g2*size + g3*flag + u[school]"
    same(
        hlm.Model.from_equations(text, pupils, school=schools),
        hlm.Model("y ~ kind + size + flag + (1 | school)", join(pupils, schools, districts)),
    )


def test_missing_values_of_an_upper_level(tables: tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]) -> None:
    pupils, schools, districts = tables
    unit = int(schools["school"][4])
    schools.loc[4, "z"] = np.nan
    everything = join(pupils, schools, districts)
    rows = int((pupils["school"] == unit).sum())
    model = hlm.Model.from_equations(TEXT, pupils, school=schools, district=districts)
    assert model.design.dropped == {"z": rows}
    same(model, hlm.Model.from_equations(TEXT, everything.dropna()))
    for word in ("error", "raise"):
        with pytest.raises(DataError, match=rf"column 'z' is missing in school {unit}; missing='drop'") as caught:
            hlm.Model.from_equations(TEXT, pupils, school=schools, district=districts, missing=word)
        assert caught.value.group == unit
    zeros = hlm.Model.from_equations(TEXT, pupils, school=schools, district=districts, structural_zeros=["z"])
    same(zeros, hlm.Model.from_equations(TEXT, everything.fillna({"z": 0.0})))
    assert schools["z"].isna().sum() == 1
    pupils.loc[3, "school"] = np.nan
    gap = hlm.Model.from_equations(TEXT, pupils, school=schools.fillna({"z": 0.0}), district=districts)
    assert gap.design.rows == 499


def test_tables_that_do_not_fit(tables: tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]) -> None:
    pupils, schools, districts = tables

    def build(p: pd.DataFrame = pupils, s: pd.DataFrame = schools, d: pd.DataFrame = districts) -> hlm.Model:
        return hlm.Model.from_equations(TEXT, p, school=s, district=d)

    gone = int(schools["school"][7])
    row = int(np.argmax(pupils["school"] == gone))
    with pytest.raises(DataError, match=rf"school {gone} of row {row} is not in the table of level 'school'") as caught:
        build(s=schools.drop(index=7))
    assert (caught.value.column, caught.value.group, caught.value.row) == ("school", gone, row)
    with pytest.raises(DataError, match=rf"school {gone} stands twice in the table of 'school' \(again in row 50\)"):
        build(s=pd.concat([schools, schools.iloc[[7]]], ignore_index=True))
    with pytest.raises(DataError, match="column 'x' is in two tables, of level 1 and of level 'school'"):
        build(s=schools.assign(x=1.0))
    with pytest.raises(DataError, match=r"district 'd2' of row \d+ is not in the table of level 'district'"):
        build(d=districts[districts["district"] != "d2"])
    with pytest.raises(DataError, match="'school' is missing in row 3 of its own table"):
        build(s=schools.assign(school=schools["school"].where(schools.index != 3)))
    with pytest.raises(DataError, match="table of level 'school' has no column 'school'"):
        build(s=schools.rename(columns={"school": "id"}))
    with pytest.raises(DataError, match="no table below level 'district'"):
        build(s=schools.drop(columns="district"))
    with pytest.raises(DataError, match="keys are int64 below"):
        build(s=schools.assign(school=schools["school"].astype(str)))
    with pytest.raises(DataError, match="key 'school' is missing in every row"):
        build(p=pupils.assign(school=None))
    with pytest.raises(DataTypeError, match="the table of level 'school': data must be a DataFrame"):
        hlm.Model.from_equations(TEXT, pupils, school=5, district=districts)
    with pytest.raises(DataError, match="structural zero 'x' is no column of an upper level"):
        hlm.Model.from_equations(TEXT, pupils, school=schools, district=districts, structural_zeros=["x"])
    frame = join(*tables)
    frame.loc[9, "z"] += 1.0
    with pytest.raises(DesignError, match="line 2: 'z' varies inside school"):
        hlm.Model.from_equations(TEXT, frame)
    text = "y = b0\nb0 = g00 + g01*z + g02*x + u0[school]"
    with pytest.raises(DesignError, match="line 2: 'x' varies inside school"):
        hlm.Model.from_equations(text, pupils, school=schools, district=districts)


def test_keys_that_contradict_each_other(tables: tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]) -> None:
    pupils, schools, districts = tables
    both = pupils.merge(schools[["school", "district"]], on="school", how="left")
    same(
        hlm.Model.from_equations(TEXT, both, school=schools, district=districts),
        hlm.Model.from_equations(TEXT, join(*tables)),
    )
    unit, right = int(both.loc[17, "school"]), both.loc[17, "district"]
    both.loc[17, "district"] = wrong = "d0" if right != "d0" else "d1"
    with pytest.raises(DataError, match=f"row 17 has district '{wrong}', but '{right}' by its school {unit}") as caught:
        hlm.Model.from_equations(TEXT, both, school=schools, district=districts)
    assert (caught.value.row, caught.value.group) == (17, unit)
