"""Arithmetic of formulas and the functions they may call: ``log(x)``, ``I(x^2)``, ``poly(x, 2)`` become a tree."""

from __future__ import annotations

from hlm.specification.tokens import Cursor, Token, describe, is_plain_name
from hlm.specification.tree import Binary, Call, Coding, Name, Node, Number, Option, Unary

# Like `hlm.specification.tokens.MAX_NESTING`, far from what a person writes and from Python's own limit.
MAX_OPERATORS = 100

_BINDING = {"+": 1, "-": 1, "*": 2, "/": 2, "^": 4, "**": 4}
_UNARY_BINDING = 3  # -x^2 is -(x^2), -x*y is (-x)*y
_FLAGS = {"TRUE": True, "True": True, "T": True, "FALSE": False, "False": False, "F": False}

_DATA, _NUMBER, _FLAG, _SETTING = "data", "number", "flag", "setting"
_VECTOR, _LABELS, _CODING, _LABEL = "vector", "labels", "coding", "label"
_GROUP, _POLICY = "group", "policy"
_KIND_NAMES = {
    _NUMBER: "a number",
    _FLAG: "TRUE or FALSE",
    _SETTING: "TRUE, FALSE or a number",
    _VECTOR: "a number or c(number, ...)",
    _LABELS: "a label or c(label, ...)",
    _CODING: "a coding: Treatment, Sum, Helmert or Poly",
    _LABEL: "a number or a label",
    _GROUP: "a grouping column",
    _POLICY: "what a group that the fit has not seen gets: 'own', 'grand' or 'error'",
}
# Means of groups that the fit has not seen: of their own rows, the one of all rows of the fit, or none.
POLICIES = ("own", "grand", "error")

# parameters in R's order (formulaic's for `cr`); the first is data, the others are constants
_BOUNDS = {"lower_bound": _NUMBER, "upper_bound": _NUMBER}
_SPLINE_BOUNDS = {"Boundary.knots": _VECTOR, **_BOUNDS}
_ELEMENTWISE = ("I", "log2", "log10", "log1p", "exp", "expm1", "sqrt", "abs", "sin", "cos", "tan", "offset")
FUNCTIONS: dict[str, dict[str, str]] = {
    **{name: {"x": _DATA} for name in _ELEMENTWISE},
    "log": {"x": _DATA, "base": _NUMBER},
    **{name: {"x": _DATA, "by": _GROUP, "new": _POLICY} for name in ("center", "mean", "within_between")},
    "scale": {"x": _DATA, "center": _SETTING, "scale": _SETTING},
    "poly": {"x": _DATA, "degree": _NUMBER, "raw": _FLAG},
    "bs": {"x": _DATA, "df": _NUMBER, "knots": _VECTOR, "degree": _NUMBER, "intercept": _FLAG, **_SPLINE_BOUNDS},
    "ns": {"x": _DATA, "df": _NUMBER, "knots": _VECTOR, "intercept": _FLAG, **_SPLINE_BOUNDS},
    "cr": {"x": _DATA, "df": _NUMBER, "knots": _VECTOR, **_BOUNDS, "constraints": _LABEL},
    "C": {"x": _DATA, "coding": _CODING, "base": _NUMBER},
    "factor": {"x": _DATA, "levels": _LABELS},
    "as.factor": {"x": _DATA},
}
_ALIASES = {"include_intercept": "intercept", "contr": "coding", "contrasts": "coding"}
CATEGORICAL = frozenset({"C", "factor", "as.factor"})
BASES = frozenset({"poly", "bs", "ns", "cr"})
# Functions of the means of groups; `center` is one of all rows without a group.
GROUPED = frozenset({"mean", "within_between"})
_OUTERMOST = CATEGORICAL | BASES | {"offset", "within_between"}  # cannot stand inside another expression
_CODINGS = {
    spelling: kind
    for kind in ("treatment", "sum", "helmert", "poly")
    for spelling in (kind, kind.capitalize(), f"contr.{kind}")
}


def read_name(cursor: Cursor) -> Name:
    """Read a plain or backticked name."""
    token = cursor.take()
    if token.text == ".":
        cursor.fail("the shorthand '.' is not supported: list the columns", token)
    if token.kind == "quoted":
        name = token.text[1:-1]
        keep = not is_plain_name(name) or name == "pi"
        return Name(token.text if keep else name, token.position, name, True)
    return Name(token.text, token.position, token.text, False)


def read_arithmetic(cursor: Cursor, least: int = 1) -> Node:
    """Read arithmetic of columns, numbers and calls whose operators bind at least as tightly as `least`."""
    with cursor.nested():
        left = _read_operand(cursor)
        while cursor.next.kind == "operator" and _BINDING.get(cursor.next.text, 0) >= least:
            operator = _take_operator(cursor)
            binding = _BINDING[operator]
            power = operator in ("^", "**")
            right = read_arithmetic(cursor, binding if power else binding + 1)
            space = "" if power else " "
            left = Binary(f"{left.text}{space}{operator}{space}{right.text}", left.position, operator, left, right)
    return left


def _take_operator(cursor: Cursor) -> str:
    cursor.operators += 1
    if cursor.operators > MAX_OPERATORS:
        cursor.fail(f"more than {MAX_OPERATORS} operators in one expression")
    return cursor.take().text


def _read_operand(cursor: Cursor) -> Node:
    token = cursor.next
    if cursor.at("-") or (cursor.at("+") and cursor.previous.text not in _BINDING):
        operator = _take_operator(cursor)
        operand = read_arithmetic(cursor, _UNARY_BINDING)
        return Unary(operator + operand.text, token.position, operator, operand)
    if cursor.at("("):
        cursor.take()
        inner = read_arithmetic(cursor)
        cursor.expect(")")
        return Unary(f"({inner.text})", token.position, "(", inner)
    if token.kind == "number":
        cursor.take()
        return Number(token.text, token.position, float(token.text.rstrip("L")))
    if cursor.at_call:
        if token.text in _OUTERMOST:
            cursor.fail(f"{token.text}() can only be a term of its own, neither a response nor part of an expression")
        return read_call(cursor)
    if token.kind in ("name", "quoted"):
        return read_name(cursor)
    cursor.fail(f"expected a column, a number or a function, found {describe(token)}")


def read_call(cursor: Cursor) -> Call:
    """Read a call of one of `FUNCTIONS`; its options are checked here, its data when it is evaluated."""
    name = cursor.take()
    parameters = FUNCTIONS.get(name.text)
    if parameters is None:
        allowed = ", ".join(sorted(FUNCTIONS, key=str.lower))
        cursor.fail(f"unknown function '{name.text}': nothing is evaluated as Python; allowed are {allowed}", name)
    cursor.expect("(")
    if cursor.at(")"):
        cursor.fail(f"{name.text}() needs an argument")
    if cursor.next.text == "x" and cursor.tokens[cursor.index + 1].text == "=":
        cursor.index += 2
    argument = read_arithmetic(cursor)
    if name.text in CATEGORICAL and not isinstance(argument, Name):
        cursor.fail(f"{name.text}() takes a column, got {argument.text}", name)
    options: dict[str, Option] = {}
    shown = [argument.text]
    while cursor.at(","):
        cursor.take()
        start = cursor.index
        parameter = _read_parameter(cursor, name.text, parameters, options)
        options[parameter] = _read_option(cursor, parameter, parameters[parameter])
        shown.append(_spelling(cursor.tokens[start : cursor.index]))
    cursor.expect(")")
    if name.text in GROUPED and "by" not in options:
        cursor.fail(f"{name.text}() needs a grouping column: {name.text}({argument.text}, school)", name)
    return Call(f"{name.text}({', '.join(shown)})", name.position, name.text, argument, tuple(options.items()))


def _read_parameter(cursor: Cursor, function: str, parameters: dict[str, str], given: dict[str, Option]) -> str:
    """Return the parameter that the next option sets: by its keyword, else the first one not yet given."""
    token = cursor.next
    if token.kind == "name" and cursor.tokens[cursor.index + 1].text == "=":
        name = _ALIASES.get(token.text, token.text)
        if parameters.get(name, _DATA) == _DATA:
            known = ", ".join(list(parameters)[1:]) or "none"
            cursor.fail(f"{function}() has no option '{token.text}' (options: {known})")
        if name in given:
            cursor.fail(f"option '{token.text}' is given twice")
        cursor.index += 2
        return name
    for name in list(parameters)[1:]:
        if name not in given:
            return name
    cursor.fail(f"too many arguments for {function}()")


def _spelling(tokens: list[Token]) -> str:
    """Return an option as R would print it."""
    parts = (", " if t.text == "," else " = " if t.text == "=" else t.text for t in tokens)
    return "".join(parts)


def _read_option(cursor: Cursor, parameter: str, kind: str) -> Option:
    start = cursor.next
    if kind == _GROUP and start.kind in ("name", "quoted") and not cursor.at_call:
        return read_name(cursor)
    value = _read_coding(cursor) if kind == _CODING else _read_constant(cursor)
    is_number = isinstance(value, float)
    fits = {
        _NUMBER: is_number,
        _FLAG: isinstance(value, bool),
        _SETTING: is_number or isinstance(value, bool),
        _VECTOR: is_number or (isinstance(value, tuple) and all(isinstance(v, float) for v in value)),
        _LABELS: is_number or isinstance(value, (str, tuple)),
        _CODING: isinstance(value, Coding),
        _LABEL: is_number or isinstance(value, str),
        _GROUP: False,
        _POLICY: value in POLICIES,
    }
    if not fits[kind]:
        cursor.fail(f"'{parameter}' must be {_KIND_NAMES[kind]}", start)
    return value


def _read_constant(cursor: Cursor) -> Option:
    """Read a number, a string, TRUE or FALSE, or ``c(...)`` of numbers and strings."""
    sign = 1.0
    if cursor.at("-", "+"):
        sign = -1.0 if cursor.take().text == "-" else 1.0
        if cursor.next.kind != "number":
            cursor.fail(f"expected a number, found {describe(cursor.next)}")
    token = cursor.next
    if cursor.at_call and token.text == "c":
        return _read_vector(cursor)
    if token.kind == "number":
        cursor.take()
        return sign * float(token.text.rstrip("L"))
    if token.kind == "string":
        cursor.take()
        return token.text[1:-1]
    if token.kind == "name" and token.text in _FLAGS:
        cursor.take()
        return _FLAGS[token.text]
    cursor.fail(f"expected a constant, found {describe(token)}")


def _read_vector(cursor: Cursor) -> tuple[float | str, ...]:
    cursor.index += 2
    values: list[float | str] = []
    while not cursor.at(")"):
        if values:
            cursor.expect(",")
        start = cursor.next
        value = cursor.fail("c() cannot hold c()") if cursor.at_call else _read_constant(cursor)
        if isinstance(value, bool) or not isinstance(value, (float, str)):
            cursor.fail("expected a number or a string", start)
        values.append(value)
    cursor.take()
    return tuple(values)


def _read_coding(cursor: Cursor) -> Coding:
    """Read ``Sum``, ``"sum"``, ``contr.sum``, ``Treatment("b")``, ``contr.treatment(3, base=2)``."""
    token = cursor.take()
    spelling = token.text[1:-1] if token.kind == "string" else token.text
    if spelling not in _CODINGS:
        cursor.fail(f"unknown coding {describe(token)}: use {', '.join(_CODINGS)}", token)
    kind = _CODINGS[spelling]
    reference: str | float | None = None
    base: int | None = None
    if token.kind == "name" and cursor.at("("):
        cursor.take()
        while not cursor.at(")"):
            keyword = ""
            if cursor.next.kind == "name" and cursor.next.text in ("reference", "base", "n"):
                keyword = cursor.take().text
                cursor.expect("=")
            start = cursor.next
            value = _read_option(cursor, "reference", _LABEL)
            by_position = isinstance(value, float) and spelling.startswith("contr.")
            if isinstance(value, float) and by_position and keyword == "base":
                base = int(value) if value.is_integer() else cursor.fail("base must be an integer", start)
            elif kind != "treatment" and not by_position:
                cursor.fail(f"{spelling} has no reference category", start)
            elif not by_position and keyword != "n":  # a bare number in contr.*(n) is R's number of levels
                reference = value if isinstance(value, (str, float)) else None
            if not cursor.at(")"):
                cursor.expect(",")
        cursor.take()
    return Coding(kind, reference, base)
