"""Builders of the inputs of data/bad_inputs.json: what is wrong, and the clean data that must give the same fit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd

FORMULA = "y ~ x + z + (1 | g)"


@dataclass
class Given:
    """An input, and one that is known to be good with which it must agree."""

    data: Any
    formula: Any = FORMULA
    options: dict[str, Any] = field(default_factory=dict)
    same: Given | None = None
    scale: float = 1.0  # of the response, against that of `same`


BUILDERS: dict[str, Callable[[], Given]] = {}


def clean() -> pd.DataFrame:
    """80 rows, 8 groups."""
    rng = np.random.default_rng(11)
    frame = pd.DataFrame({"x": rng.normal(size=80), "z": rng.normal(size=80), "g": np.repeat(list("abcdefgh"), 10)})
    frame["y"] = 1 + frame["x"] - frame["z"] + np.repeat(rng.normal(size=8), 10) + rng.normal(size=80)
    return frame


def builder(function: Callable[[], Given]) -> Callable[[], Given]:
    BUILDERS[function.__name__] = function
    return function


def changed(name: str, column: str, change: Callable[[pd.Series], Any], same: str = "") -> None:
    """An input with one column changed; `same`: "clean": the fit of the clean data, "rows": that of complete rows."""

    def build() -> Given:
        frame = clean()
        frame[column] = change(frame[column])
        if same == "rows":
            return Given(frame, same=Given(clean()[~frame[column].isna().to_numpy()]))
        return Given(frame, same=Given(clean()) if same else None)

    BUILDERS[name] = build


def put(value: Any, *rows: int) -> Callable[[pd.Series], pd.Series]:
    def change(column: pd.Series) -> pd.Series:
        column = column.astype(object) if isinstance(value, str) else column.copy()
        column.iloc[list(rows)] = value
        return column

    return change


# ---- values ----------------------------------------------------------------------------------------------------------

for letter in "yxg":
    changed(f"nan_in_{letter}", letter, put(None if letter == "g" else np.nan, 3, 17, 60), "rows")
for letter in "yx":
    changed(f"inf_in_{letter}", letter, put(np.inf, 5))
    changed(f"neginf_in_{letter}", letter, put(-np.inf, 5))
    changed(f"all_nan_{letter}", letter, lambda v: v * np.nan)
changed("str_y", "y", lambda v: v.astype(str))
changed("mixed_y", "y", put("bad", 4))
changed("object_y", "y", lambda v: v.astype(object), "clean")
changed("decimal_y", "y", lambda v: [Decimal(float(value)) for value in v], "clean")
changed("complex_y", "y", lambda v: v + 0j)
changed("datetime_x", "x", lambda v: pd.Timestamp("2020-01-01") + pd.to_timedelta(np.arange(80), unit="D"))
changed("readonly", "y", lambda v: v, "clean")
changed("bigendian", "x", lambda v: v.to_numpy().astype(">f8"), "clean")
changed("nullable", "x", lambda v: pd.array([None if k in (3, 17) else a for k, a in enumerate(v)], "Float64"), "rows")
changed("const_y", "y", lambda v: 3.0)
changed("const_x", "x", lambda v: 3.0)


def _replaced(name: str, column: str, made: Callable[[pd.DataFrame], Any], plain: Callable[[Any], Any]) -> None:
    """An input with a column of an odd type, against the same values as plain float64."""

    def build() -> Given:
        frame, other = clean(), clean()
        frame[column] = made(frame)
        other[column] = plain(frame[column])
        return Given(frame, same=Given(other))

    BUILDERS[name] = build


def _plain(values: Any) -> Any:
    return np.array([float(value) for value in values])


_replaced("bool_y", "y", lambda f: f["y"] > 0, _plain)
_replaced("bool_x", "x", lambda f: f["x"] > 0, _plain)
_replaced("int_y_big", "y", lambda f: 2**40 + np.round(1000 * f["y"]).astype(np.int64), _plain)
_replaced("int_beyond_int64", "y", lambda f: pd.Series([int(10**6 * v) * 10**16 for v in f["y"]], dtype=object), _plain)
_replaced("float16_x", "x", lambda f: f["x"].astype(np.float16), _plain)


@builder
def float32() -> Given:
    frame = clean()
    for column in "yxz":
        frame[column] = frame[column].astype(np.float32)
    return Given(frame, same=Given(frame.astype(dict.fromkeys("yxz", np.float64))))


@builder
def fortran() -> Given:
    block = np.asfortranarray(np.repeat(clean()[["y", "x", "z"]].to_numpy(), 2, axis=0))[::2]
    frame = pd.DataFrame(block, columns=["y", "x", "z"], copy=False)
    frame["g"] = clean()["g"]
    return Given(frame, same=Given(clean()))


@builder
def readonly() -> Given:
    data = {name: column.to_numpy().copy() for name, column in clean().items()}
    for values in data.values():
        values.flags.writeable = False
    return Given(data, same=Given(clean()))


@builder
def y_1e300() -> Given:
    return Given(clean().assign(y=clean()["y"] * 1e300), same=Given(clean()), scale=1e300)


def _tiny() -> Given:
    return Given(clean().assign(y=clean()["y"] * 1e-300), same=Given(clean()), scale=1e-300)


BUILDERS["y_1e-300"] = _tiny


@builder
def dup_x() -> Given:
    return Given(clean().assign(z=clean()["x"]))


@builder
def exact_fit() -> Given:
    return Given(clean().eval("y = 1 + 2 * x - z"))


@builder
def const_in_every_group() -> Given:
    frame = clean()
    frame["y"] = frame["g"].map({label: k**2 / 7 for k, label in enumerate("abcdefgh")})
    return Given(frame, "y ~ 1 + (1 | g)")


# ---- groups ----------------------------------------------------------------------------------------------------------

changed("one_group", "g", lambda v: "a")
changed("unique_groups", "g", lambda v: np.arange(80))
changed("group_is_response", "y", lambda v: v)
changed("float_groups", "g", lambda v: np.repeat(np.arange(8.0), 10) / 3, "clean")
changed("int_groups", "g", lambda v: np.repeat(np.arange(8), 10), "clean")
changed(
    "nan_float_groups", "g", lambda v: np.where(np.arange(80) % 20 == 3, np.nan, np.repeat(np.arange(8.0), 10)), "rows"
)
changed(
    "mixed_groups",
    "g",
    lambda v: np.repeat(np.array([1, "1", 2.0, "2", (1, 2), 3, "b", "c"], dtype=object), 10),
    "clean",
)
changed("unused_levels", "g", lambda v: pd.Categorical(v, categories=["0", *"hgfedcba", "z"]), "clean")
changed("ordered_cat_groups", "g", lambda v: pd.Categorical(v, ordered=True), "clean")
changed("bigint_groups", "g", lambda v: 2**53 + np.repeat(np.arange(8), 10), "clean")
changed("space_levels", "g", lambda v: np.repeat(["a", "a ", " a", "", " ", "  ", "b", "b\t"], 10), "clean")


def _with_formula(
    name: str, formula: Any, data: Callable[[], Any] = clean, same: Callable[[], Any] | None = None
) -> None:
    BUILDERS[name] = lambda: Given(data(), formula, same=Given(same()) if same else None)


_with_formula("group_is_response", "y ~ x + (1 | y)")


@builder
def unsorted_groups() -> Given:
    return Given(clean().sample(frac=1, random_state=2), same=Given(clean()))


@builder
def unicode_levels() -> Given:
    frame = clean().replace(
        {"g": dict(zip("abcdefgh", ["α", "é", "e\u0301", "日本", "", "🙂", "ß", "SS"], strict=True))}
    )
    return Given(frame.rename(columns={"x": "größe", "g": "学校"}), "y ~ größe + z + (1 | 学校)", same=Given(clean()))


@builder
def colon_levels() -> Given:
    frame = clean().iloc[:70]
    pairs = [("p:q", "r"), ("p", "q:r"), ("p", "q"), ("q", "r"), ("a", "b"), ("a:b", ""), ("", "a:b")]
    frame = frame.assign(a=np.repeat([a for a, _ in pairs], 10), b=np.repeat([b for _, b in pairs], 10))
    return Given(frame, "y ~ x + z + (1 | a:b)", same=Given(clean().iloc[:70]))


@builder
def too_many_re() -> Given:
    return Given(clean().iloc[:20].assign(g=np.arange(20) // 2), "y ~ 1 + (1 + x + z | g)")


# ---- shape -----------------------------------------------------------------------------------------------------------

_with_formula("empty", FORMULA, lambda: clean().iloc[:0])
_with_formula("one_row", FORMULA, lambda: clean().iloc[:1])
_with_formula("n_eq_p", FORMULA, lambda: clean().iloc[[0, 1, 30]])
_with_formula("n_lt_p", FORMULA, lambda: clean().iloc[[0, 30]])
_with_formula("dup_names", FORMULA, lambda: pd.concat([clean(), clean()[["x"]]], axis=1))
_with_formula("odd_index", FORMULA, lambda: clean().set_axis(np.arange(80)[::-1] % 7), clean)
_with_formula("data_none", FORMULA, lambda: None)
_with_formula("data_list", FORMULA, lambda: [1.0, 2.0, 3.0])
_with_formula("data_dict", FORMULA, lambda: clean().to_dict("list"), clean)
_with_formula("ragged_dict", FORMULA, lambda: {**clean().to_dict("list"), "x": clean()["x"].tolist()[:-1]})


# ---- weights ---------------------------------------------------------------------------------------------------------


def _weighted(name: str, weights: Any, same: Callable[[], Any] | None = None) -> None:
    BUILDERS[name] = lambda: Given(clean(), FORMULA, {"weights": weights}, Given(same()) if same else None)


_weighted("w_short", np.ones(79))
_weighted("w_nan", np.r_[np.ones(79), np.nan])
_weighted("w_neg", np.r_[-1, np.ones(79)])
_weighted("w_inf", np.r_[np.ones(79), np.inf])
_weighted("w_allzero", np.zeros(80))
_weighted("w_str", np.full(80, "1"))
_weighted("w_zero", (np.arange(80) % 9 > 0) * 1.0, lambda: clean()[np.arange(80) % 9 > 0])
_weighted("w_int", np.ones(80, dtype=int), clean)


# ---- formulas --------------------------------------------------------------------------------------------------------

for name, text in {
    "f_missing_col": "y ~ x + nope + (1 | g)",
    "f_missing_group": "y ~ x + (1 | nope)",
    "f_missing_y": "nope ~ x + (1 | g)",
    "f_unbalanced": "y ~ x + (1 | g",
    "f_empty": "",
    "f_no_resp": "~ x + (1 | g)",
    "f_no_tilde": "y + x + (1 | g)",
    "f_no_group": "y ~ x + (1|)",
    "f_zero_re": "y ~ x + (0|g)",
    "f_resp_rhs": "y ~ y + x + (1 | g)",
    "f_double_op": "y ~ x + * z + (1 | g)",
    "f_nul": "y ~ x\x00 + (1 | g)",
    "f_dup_re": "y ~ x + (1 | g) + (1 | g)",
    "f_notstr": 7,
    "f_code": "y ~ __import__('os').system('touch hacked') + (1 | g)",
    "f_log_negative": "y ~ log(x) + (1 | g)",
}.items():
    _with_formula(name, text)


def _renamed(name: str, x: str, z: str, formula: str) -> None:
    _with_formula(name, formula, lambda: clean().rename(columns={"x": x, "z": z}), clean)


_renamed("f_odd_names", "my x", "z", "y ~ `my x` + z + (1 | g)")
_renamed("f_keyword_names", "class", "lambda", "y ~ class + lambda + (1 | g)")
_renamed("f_func_names", "log", "C", "y ~ log + C + (1 | g)")
_renamed("f_dot_names", "x.1", "_z", "y ~ x.1 + _z + (1 | g)")
