"""Level equations read from text: each right side goes through Python's `ast`, and nothing is evaluated."""

from __future__ import annotations

import ast
import keyword
import math
import re
import sys
from collections.abc import Collection, Sequence
from typing import NoReturn

from hlm.errors import DataTypeError, FormulaError, at_position
from hlm.specification.equations import NAME, Disturbance, Effect, Equation, read_expression, suggestion

# What the error of level 1 may be called: it is always there, and need not be written.
RESIDUALS = ("e", "r", "eps", "epsilon", "ε")
# Characters and summands of an equation, far beyond what anybody writes: `ast` recurses.
MAX_LENGTH = 20_000
MAX_SUMMANDS = 1000

_WORD = re.compile(
    r"""(?P<quoted>`[^`]*`)|(?P<string>"[^"]*"|'[^']*')
    |(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)|(?P<name>(?:[^\W\d]|\.(?!\d))[\w.]*)""",
    re.VERBOSE,
)
_PLACEHOLDER = "\u4e00"  # a letter: stands for each of a name that Python cannot read


def parse_equations(text: str, columns: Collection[str]) -> tuple[Equation, ...]:
    """Read level equations, one a line.

    A line that begins with an operator goes on with the one before; ``#`` begins a comment. A name that is a column is
    a regressor, one with brackets (``u0[school]``, ``r0[school:class]``) a random error, any other a coefficient. A
    column whose name is no name goes in backticks.

    Parameters
    ----------
    text : str
        First the level-1 equation, then one for each coefficient.
    columns : collection of str
        Names of the columns of the data.

    Returns
    -------
    tuple of Equation

    Raises
    ------
    DataTypeError
        If `text` is not a string.
    FormulaError
        If a line cannot be read; the message names it and shows the place with a caret.
    """
    if not isinstance(text, str):
        raise DataTypeError(f"equations must be a string or a list of hlm.Equation, got {type(text).__name__}")
    lines = _lines(text)
    if not lines:
        raise FormulaError("no equations: write the level-1 equation first, such as 'math = b0 + b1*ses'", position=0)
    equations = [_Line(number, line, columns, first=k == 0).read() for k, (number, line) in enumerate(lines)]
    return (_without_residual(equations[0], {equation.left for equation in equations}), *equations[1:])


def _lines(text: str) -> list[tuple[int, str]]:
    """Return number and text of each equation: comments cut, lines that begin with an operator joined to the last."""
    found: list[tuple[int, str]] = []
    for number, line in enumerate(text.strip("\r\n").splitlines(), 1):
        words = [match.span() for match in _WORD.finditer(line)]
        cut = next((k for k, c in enumerate(line) if c == "#" and not any(a <= k < b for a, b in words)), len(line))
        content = "".join(c if c.isprintable() else "?" if not c.isspace() else " " for c in line[:cut]).rstrip()
        if not content.strip():
            continue
        if content.strip()[0] in "+-*" and found:
            found[-1] = (found[-1][0], f"{found[-1][1]} {content.strip()}")
        else:
            found.append((number, content.strip()))
    return found


def _without_residual(first: Equation, lefts: Collection[str]) -> Equation:
    """Leave out the error of level 1, which may be written and is there anyway."""
    alone = [effect for effect in first.effects if not effect.regressors]
    last = first.parts[-1] if first.parts else None
    if len(first.parts) > 1 and last in alone and last.coefficient in RESIDUALS and last.coefficient not in lefts:  # type: ignore[union-attr]
        return Equation(first.left, first.parts[:-1], first.text, first.line)
    return first


class _Line:
    """One line while it is read."""

    def __init__(self, number: int, text: str, columns: Collection[str], first: bool) -> None:
        self.number = number
        self.text = text
        self.columns = columns
        self.first = first
        self.masked = _mask(text)
        self.right = 0  # where the right side starts

    def fail(self, message: str, start: int, end: int | None = None) -> NoReturn:
        """Raise a FormulaError for a part of the line."""
        length = 1 if end is None else end - start
        raise at_position(f"line {self.number}: {message}", self.text, start, max(length, 1))

    def read(self) -> Equation:
        if len(self.text) > MAX_LENGTH:
            self.fail(f"more than {MAX_LENGTH:,} characters in one equation", 0)
        at = self._equals_sign()
        left = self.text[:at].strip()
        if not left:
            self.fail("nothing left of '=': which coefficient is this the equation of?", at)
        if not self.first:
            self._check_left(left)
        parts = [self._summand(node, sign) for node, sign in self._summands(self._parse(at + 1))]
        return Equation(left, tuple(parts), self.text, self.number)

    def _equals_sign(self) -> int:
        depth, found = 0, []
        for k, c in enumerate(self.masked):
            depth += (c in "([") - (c in ")]")
            if c == "=" and depth <= 0:
                found.append(k)
        if "~" in self.masked:
            self.fail("'~' belongs to formulas: an equation has '='", self.masked.index("~"))
        if not found:
            self.fail("no '=' in the equation: write it as 'b0 = g00 + g01*x + u0[group]'", len(self.text))
        if len(found) > 1:
            self.fail("an equation has one '='", found[1])
        return found[0]

    def _check_left(self, left: str) -> None:
        if left in self.columns or left[:1] == "`":
            name = left.strip("`")
            message = f"'{name}' is a column of the data and cannot have an equation: only coefficients do"
            self.fail(message, 0, len(left))
        if not NAME.fullmatch(left):
            self.fail(f"left of '=' stands the name of one coefficient, not '{left}'", 0, len(left))

    def _parse(self, start: int) -> ast.expr:
        """Parse the right side; its nodes carry places of the right side in UTF-8 bytes."""
        right = self.masked[start:]
        self.right = start + len(right) - len(right.lstrip())
        if not right.strip():
            self.fail("nothing right of '='", len(self.text))
        try:
            return ast.parse(right.strip(), mode="eval").body
        except SyntaxError as error:
            at = min(self.right + max((error.offset or 1) - 1, 0), len(self.text))
            self._explain(at, str(error.msg))
        except (ValueError, RecursionError, MemoryError):
            self.fail("the equation is too long or nested too deeply", self.right)

    def _explain(self, at: int, message: str) -> NoReturn:
        """Say in plain words what Python's parser met."""
        for opening, closing in ("()", "[]"):
            count = self.masked.count(opening) - self.masked.count(closing)
            if count:
                what = f"'{opening}' is never closed" if count > 0 else f"'{closing}' without '{opening}'"
                place = self.masked.find(opening, self.right) if count > 0 else self.masked.rfind(closing)
                self.fail(f"unbalanced brackets: {what}", max(place, 0))
        if "[]" in self.masked:
            place = self.masked.index("[]")
            self.fail("in brackets stands a grouping column: u0[school]", place, place + 2)
        missing = re.search(r"[\w\])]\s+(?=[\w`(])|\d(?=[^\W\d_])|\)(?=\w)", self.masked[self.right :])
        if missing and ("comma" in message or "invalid" in message):
            self.fail("an operator is missing here: write b1*x for a product, + for a sum", self.right + missing.end())
        if self.masked.rstrip()[-1:] in "+-*/":
            self.fail("the equation ends with an operator: a summand is missing", len(self.text) - 1)
        self.fail(f"this cannot be read: {message}", at)

    def _span(self, node: ast.expr) -> tuple[int, int]:
        """First and last character of a node, in the line; `ast` counts bytes."""
        data = self.masked[self.right :].encode()
        start, end = (
            self.right + len(data[:at].decode(errors="ignore")) for at in (node.col_offset, node.end_col_offset or 0)
        )
        return start, end

    def _source(self, node: ast.expr) -> str:
        start, end = self._span(node)
        return self.text[start:end]

    def _summands(self, node: ast.expr) -> list[tuple[ast.expr, int]]:
        """Split a sum; signs are carried along."""
        stack, found = [(node, 1)], []
        while stack:
            node, sign = stack.pop()
            if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Add, ast.Sub)):
                stack.append((node.right, sign if isinstance(node.op, ast.Add) else -sign))
                stack.append((node.left, sign))
            elif isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.UAdd, ast.USub)):
                stack.append((node.operand, sign if isinstance(node.op, ast.UAdd) else -sign))
            else:
                found.append((node, sign))
        if len(found) > MAX_SUMMANDS:
            self.fail(f"more than {MAX_SUMMANDS} summands in one equation", 0)
        return found

    def _summand(self, node: ast.expr, sign: int) -> Effect | Disturbance:
        start, end = self._span(node)
        number: float | None = None
        coefficients: list[ast.expr] = []
        errors: list[ast.Subscript] = []
        regressors: list[str] = []
        for factor in _factors(node):
            value = _number(factor)
            if value is not None:
                number = value if number is None else number * value
            elif isinstance(factor, ast.Subscript):
                errors.append(factor)
            elif self._is_name(factor) and self._name(factor) not in self.columns:
                coefficients.append(factor)
            else:
                regressors.append(self._regressor(factor))
        if errors:
            return self._disturbance(errors, coefficients, regressors, number, sign, (start, end))
        if len(coefficients) > 1:
            self._two_names(coefficients, start, end)
        if coefficients:
            name = self._name(coefficients[0])
            if sign < 0:
                self.fail(f"write + {name}: a negative coefficient comes out of the estimation", start, end)
            if number is not None:
                self.fail(f"the coefficient '{name}' is multiplied with a number: leave it out", start, end)
            return Effect(name, tuple(regressors))
        if number is None:
            text = self.text[start:end]
            self.fail(f"'{text}' has no coefficient: write b*{text}; 1*{text} holds it at one", start, end)
        return Effect(sign * number, tuple(regressors))

    def _is_name(self, node: ast.expr) -> bool:
        return isinstance(node, ast.Name) or (isinstance(node, ast.Attribute) and "(" not in self._source(node))

    def _name(self, node: ast.expr) -> str:
        return self._source(node).strip("`")

    def _two_names(self, coefficients: list[ast.expr], start: int, end: int) -> NoReturn:
        names = [self._name(node) for node in coefficients]
        for name in reversed(names):
            hint = suggestion(name, self.columns)
            if hint:
                self.fail(f"'{name}' is not a column{hint}", *self._span(coefficients[names.index(name)]))
        message = f"'{names[0]}' and '{names[1]}' are multiplied, and neither is a column: the model is linear in its "
        self.fail(message + "coefficients, one for each product (is a column missing in the data?)", start, end)

    def _regressor(self, node: ast.expr) -> str:
        """Return the text of a regressor: a column, an allowed function, or arithmetic, which becomes ``I(...)``."""
        start, end = self._span(node)
        source = self.text[start:end]
        if self._is_name(node):
            return self._name(node)
        inside = [child for child in ast.walk(node) if isinstance(child, (ast.Name, ast.Subscript))]
        called = {id(child.func) for child in ast.walk(node) if isinstance(child, ast.Call)}
        if isinstance(node, ast.BinOp) and not isinstance(node.op, ast.Pow):
            self._refuse_operator(node, inside)
        if not isinstance(node, (ast.BinOp, ast.Call, ast.UnaryOp)):
            self.fail(f"'{source}' is neither a column, a coefficient nor an error", start, end)
        for child in inside:
            name = self._name(child)
            is_number = name == "pi" and "pi" not in self.columns
            if id(child) in called or name in self.columns or is_number or self._is_option(child, node):
                continue
            message = f"'{name}' inside '{source}' is not a column{suggestion(name, self.columns)}"
            self.fail(f"{message} (coefficients and errors stand outside: the model is linear)", *self._span(child))
        if not isinstance(node, ast.Call):
            source = f"I({source})"
        try:
            return read_expression(source, self.columns).text
        except FormulaError as error:
            inner = (error.position or 0) - (0 if isinstance(node, ast.Call) else 2)
            message = str(error).split("\n", 1)[0]
            word = _WORD.match(self.text, start + inner) if start + inner < end else None
            self.fail(message, start + max(inner, 0), word.end() if word else None)

    @staticmethod
    def _is_option(child: ast.expr, node: ast.expr) -> bool:
        """Whether a name stands in an option of a call, which is read later: ``C(x, Sum)``."""
        calls = [inner for inner in ast.walk(node) if isinstance(inner, ast.Call)]
        options = [option for call in calls for option in (*call.args[1:], *(k.value for k in call.keywords))]
        return any(child is inner for option in options for inner in ast.walk(option))

    def _refuse_operator(self, node: ast.BinOp, inside: Sequence[ast.expr]) -> None:
        """Refuse operators that mean something else than a sum or a product of an equation."""
        start, end = self._span(node)
        if isinstance(node.op, ast.BitXor):
            self.fail("Python's ^ is no power: write x**2 or I(x^2)", start, end)
        if isinstance(node.op, ast.Div) and any(self._source(child).strip("`") not in self.columns for child in inside):
            self.fail("nothing is divided in an equation: write b1*I(x/10) for a regressor in other units", start, end)
        if isinstance(node.op, (ast.Add, ast.Sub, ast.Div)):
            return
        self.fail(f"'{self.text[start:end]}' is no sum of products: an equation has only + and *", start, end)

    def _disturbance(
        self,
        errors: list[ast.Subscript],
        coefficients: list[ast.expr],
        regressors: list[str],
        number: float | None,
        sign: int,
        span: tuple[int, int],
    ) -> Disturbance:
        text = self._source(errors[0])
        if len(errors) > 1 or coefficients:
            self.fail(f"the error {text} is multiplied with a coefficient or an error: it enters linearly", *span)
        if number is not None or sign < 0:
            self.fail(f"the error {text} has a variance of its own: write + {text}, without sign or number", *span)
        name = errors[0].value
        if not self._is_name(name):
            self.fail("in front of the brackets stands the name of an error: u0[school]", *span)
        if self._name(name) in self.columns:
            self.fail(f"'{self._name(name)}' is a column: give the error a name of its own", *self._span(name))
        return Disturbance(self._name(name), self._groups(errors[0].slice), tuple(regressors))

    def _groups(self, node: ast.expr) -> tuple[str, ...]:
        """Return the grouping columns of brackets: ``school``, ``school:class``, ``a, b, c``."""
        if isinstance(node, ast.Slice):
            parts = [part for part in (node.lower, node.upper, node.step) if part is not None]
        else:
            parts = node.elts if isinstance(node, ast.Tuple) else [node]
        names = []
        for part in parts:
            start, end = self._span(part)
            name = self._name(part) if self._is_name(part) else ""
            if name not in self.columns:
                shown = self.text[start:end]
                hint = suggestion(shown, self.columns)
                self.fail(f"in brackets stands a grouping column; '{shown}' is not a column{hint}", start, end)
            names.append(name)
        if not names:
            self.fail("in brackets stands a grouping column: u0[school]", *self._span(node))
        return tuple(names)


def _factors(node: ast.expr) -> list[ast.expr]:
    """Split a product."""
    stack, found = [node], []
    while stack:
        node = stack.pop()
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
            stack += [node.right, node.left]
        else:
            found.append(node)
    return found


def _number(node: ast.expr) -> float | None:
    """Return the value of a number, with its sign."""
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.UAdd, ast.USub)):
        value = _number(node.operand)
        return None if value is None else value if isinstance(node.op, ast.UAdd) else -value
    if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)) and not isinstance(node.value, bool):
        return float(node.value) if abs(node.value) <= sys.float_info.max else math.inf
    return None


def _mask(text: str) -> str:
    """Replace names that Python cannot read (quoted, dotted, keywords) by letters of the same length."""

    def replace(match: re.Match[str]) -> str:
        word = match.group()
        if match.lastgroup in ("string", "number") or word in ("True", "False", "None"):
            return word
        if match.lastgroup == "name" and word.isidentifier() and not keyword.iskeyword(word):
            return word
        return _PLACEHOLDER * len(word)

    return _WORD.sub(replace, text)
