"""Level equations as objects: what `equation_text` reads, and programs that write models make."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, NoReturn

from hlm.errors import DataTypeError, FormulaError, HLMError, at_position
from hlm.specification.expression import read_arithmetic, read_call
from hlm.specification.tokens import Cursor
from hlm.specification.tree import Call, Expression, as_expression, within_and_between

NAME = re.compile(r"(?:[^\W\d]|\.(?!\d))[\w.]*")


@dataclass(frozen=True)
class Effect:
    """A summand of an equation: a coefficient, or a number known in advance, times regressors.

    Parameters
    ----------
    coefficient : str or float
        ``"g01"``; a number is a coefficient known in advance.
    regressors : str or tuple of str
        Columns or transforms of columns, which are multiplied; none for the intercept.
    """

    coefficient: str | float
    regressors: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "regressors", _texts(self.regressors, "regressors"))
        if isinstance(self.coefficient, bool) or not isinstance(self.coefficient, (str, int, float)):
            raise DataTypeError(f"a coefficient is a name or a number, got {self.coefficient!r}")

    @property
    def is_known(self) -> bool:
        """Whether the coefficient is a number."""
        return not isinstance(self.coefficient, str)

    def __str__(self) -> str:
        coefficient = self.coefficient if isinstance(self.coefficient, str) else f"{self.coefficient!r}"
        return "*".join([coefficient, *map(spelt, self.regressors)])


@dataclass(frozen=True)
class Disturbance:
    """A summand of an equation: the random error of a level.

    Parameters
    ----------
    name : str
        ``"u0"``.
    groups : str or tuple of str
        Grouping column; several make the level of their combinations: ``u0[school:class]``.
    regressors : str or tuple of str
        What the error is multiplied with; none in the usual equation of a coefficient.
    """

    name: str
    groups: tuple[str, ...]
    regressors: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "groups", _texts(self.groups, "groups"))
        object.__setattr__(self, "regressors", _texts(self.regressors, "regressors"))
        if not isinstance(self.name, str) or not self.groups:
            raise DataTypeError("a Disturbance has a name and at least one grouping column")

    @property
    def symbol(self) -> str:
        """``u0[school]``."""
        return f"{self.name}[{':'.join(map(spelt, self.groups))}]"

    def __str__(self) -> str:
        return "*".join([self.symbol, *map(spelt, self.regressors)])


@dataclass(frozen=True)
class Equation:
    """One equation: the response or a coefficient, and the summands that it equals.

    Parameters
    ----------
    left : str
        The response (a column or a transform of it) in the first equation, a coefficient in the others.
    parts : sequence of Effect and Disturbance
    text : str, optional
        The equation as it was written; made from the parts when left out.
    line : int, optional
        Its line in the text, for messages.

    Examples
    --------
    >>> import hlm
    >>> print(hlm.Equation("b0", [hlm.Effect("g00"), hlm.Effect("g01", "meanses"), hlm.Disturbance("u0", "school")]))
    b0 = g00 + g01*meanses + u0[school]
    """

    left: str
    parts: tuple[Effect | Disturbance, ...]
    text: str = field(default="", compare=False)
    line: int | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        parts = tuple(self.parts)
        if not isinstance(self.left, str) or not all(isinstance(part, (Effect, Disturbance)) for part in parts):
            raise DataTypeError("an Equation has a left side, a string, and parts that are Effect or Disturbance")
        object.__setattr__(self, "parts", parts)
        if not self.text:
            object.__setattr__(self, "text", f"{self.left} = {' + '.join(map(str, parts)) or '0'}")

    def __str__(self) -> str:
        return self.text

    @property
    def effects(self) -> tuple[Effect, ...]:
        """Summands with a coefficient."""
        return tuple(part for part in self.parts if isinstance(part, Effect))

    @property
    def disturbances(self) -> tuple[Disturbance, ...]:
        """Random errors."""
        return tuple(part for part in self.parts if isinstance(part, Disturbance))

    def fail(self, message: str, symbol: str = "", kind: type[HLMError] = FormulaError, **place: Any) -> NoReturn:
        """Raise an error that names the line and shows a symbol in it with a caret.

        Parameters
        ----------
        message : str
        symbol : str
            If it stands there several times the last one is meant: what repeats is at fault.
        kind : type of HLMError
        **place
            As in `HLMError`.

        Raises
        ------
        HLMError
            Always, of that kind.
        """
        found = [m.start() for m in re.finditer(rf"(?<![\w.]){re.escape(symbol)}(?!\w)", self.text)] if symbol else []
        at = found[-1] if found else 0
        where = f"line {self.line}" if self.line is not None else "an equation"
        error = at_position(f"{where}: {message}", self.text, at, max(len(symbol), 1))
        raise kind(str(error), position=at, **place)


def read_expression(text: str, columns: Collection[str]) -> Expression:
    """Return the expression of a regressor or a response: a column by its name, or allowed arithmetic of columns.

    Parameters
    ----------
    text : str
    columns : collection of str
        Names of the columns of the data.

    Raises
    ------
    FormulaError
        If it cannot be read, or names what is no column.
    """
    cursor = Cursor(text if text not in columns else f"`{text}`" if "`" not in text else text)
    node = read_call(cursor) if cursor.at_call else read_arithmetic(cursor)
    if cursor.next.kind != "end":  # arithmetic that begins with a call, or nothing that can be read
        cursor.index = cursor.operators = 0
        node = read_arithmetic(cursor)
    if isinstance(node, Call) and node.function == "within_between":
        within, between = (part.text for part in within_and_between(node))
        cursor.fail(f"write {within} in the equation of level 1 and {between} in that of its level", cursor.tokens[0])
    expression = as_expression(node)
    if cursor.next.kind != "end" or not expression.columns:
        cursor.fail("expected a column or a transform of columns")
    for name in expression.columns:
        if name not in columns:
            at = max(text.find(name), 0)
            raise at_position(f"'{name}' is not a column{suggestion(name, columns)}", text, at, len(name))
    return expression


def suggestion(name: str, known: Collection[str]) -> str:
    """Return ``; did you mean 'x'?`` for a name that is nearly one of those known, else nothing."""
    near = difflib.get_close_matches(name, list(known), 1, 0.75)
    return f"; did you mean '{near[0]}'?" if near else ""


def spelt(text: str) -> str:
    """Return a column's name as equations spell it, in backticks where it is no name; expressions as they are."""
    is_expression = re.search(r"[(*/^+-]", text) is not None and re.search(r"[\w.]", text) is not None
    return text if is_expression or NAME.fullmatch(text) else f"`{text}`"


def _texts(value: object, what: str) -> tuple[str, ...]:
    values = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, (tuple, list)) else None
    if values is None or not all(isinstance(text, str) for text in values):
        raise DataTypeError(f"{what} are a string or several, got {value!r}")
    return values
