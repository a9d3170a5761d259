"""Whatever stands in a text of equations: a model, or an error of this library that says where."""

import contextlib

import numpy as np
import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st

import hlm
from hlm.errors import FormulaError, HLMError
from hlm.specification.equation_text import parse_equations

COLUMNS = ["y", "x", "z", "school", "class", "my column"]
WORDS = [*COLUMNS[:5], "`my column`", "b0", "b1", "g00", "u0[school]", "e", "2", "0.5", "1e999", "fixed[school]", "9b"]
WORDS += [
    "=",
    "+",
    "-",
    "*",
    "**",
    "^",
    "/",
    "(",
    ")",
    "[",
    "]",
    ":",
    ",",
    "\n",
    " ",
    "#",
    "`",
    '"',
    "'",
    "~",
    ";",
    "@",
]
WORDS += ["log(x)", "center(x, school)", "mean(", "β0", "\\", "\x00", "é", "lambda", "None", "x.y", "🙂", "class"]
SUMMANDS = ["g00", "g01*z", "g02*log(z + 1)", "2*z", "g03*mean(x, school)", "g04*C(class)", "g05*`my column`"]
SUMMANDS += ["g06*z*school", "u0[school]", "u1[class]", "u2[school:class]", "fixed[school]", "g01", "u0[class]", "e"]


@settings(deadline=None, max_examples=300)
@given(st.one_of(st.lists(st.sampled_from(WORDS), max_size=25).map("".join), st.text(max_size=60)))
def test_any_text_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(FormulaError):
        equations = parse_equations(f"y = b0 + b1*x\nb0 = {text}", COLUMNS)
        assert all(str(equation) for equation in equations)


@settings(deadline=None, max_examples=100)
@given(st.lists(st.sampled_from(SUMMANDS), min_size=1, max_size=5), st.lists(st.sampled_from(SUMMANDS), max_size=3))
def test_equations_give_a_model_or_an_error_of_this_library(intercept: list[str], slope: list[str]) -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({name: rng.normal(size=40) for name in ("y", "x")})
    frame["school"], frame["class"] = np.arange(40) % 8, np.arange(40) % 5
    frame["z"] = frame["school"] ** 2 / 10
    frame["my column"] = frame["school"] % 2
    lines = ["y = b0 + b1*x", f"b0 = {' + '.join(intercept)}"]
    if slope:
        lines.append(f"b1 = {' + '.join(slope).replace('g0', 'g1').replace('u', 'w')}")
    try:
        model = hlm.Model.from_equations("\n".join(lines), frame)
    except HLMError:
        return
    again = hlm.Model.from_equations(model.equations(), frame)
    assert again.equations() == model.equations()
    assert again.design.names == model.design.names
