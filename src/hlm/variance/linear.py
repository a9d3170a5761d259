"""Linear equations between named quantities: read from text, solved exactly."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Any, NoReturn

from hlm.errors import DataError, FormulaError

_NUMBER = re.compile(r"(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")
_WORD = re.compile(r"[^-+*/=(),;]+")
# Characters of an equation that messages and tables show.
SHOWN = 80
# Parentheses and signs deeper than this are no equation of a person.
MAX_NESTING = 50
# Numbers beyond this, or below its inverse, are none of a person, and Fraction would write all their digits out.
LARGEST = 1e150
# What a quantity is known by; the empty one stands for the constant of a sum.
Key = tuple[Any, ...]
CONSTANT: Key = ()


@dataclass(frozen=True)
class Equation:
    """Σ coefficient · quantity = right.

    Attributes
    ----------
    coefficients : dict of key to Fraction
        None of them zero.
    right : Fraction
    label : str
        As the user gave it.
    """

    coefficients: dict[Key, Fraction]
    right: Fraction
    label: str


def eliminate(equations: Sequence[Equation], order: Sequence[Key]) -> list[Equation]:
    """Bring equations to reduced echelon form, exactly.

    Parameters
    ----------
    equations : sequence of Equation
    order : sequence of keys
        The first of an equation's keys in this order is the one it is solved for: its coefficient becomes 1 and it
        occurs in no other equation.

    Raises
    ------
    DataError
        If an equation contradicts those before it, follows from them, or leads to numbers out of range, naming it.
    """
    rank = {key: place for place, key in enumerate(order)}
    solved: list[tuple[Key, Equation]] = []
    for equation in equations:
        coefficients, right = dict(equation.coefficients), equation.right
        for pivot, other in solved:
            right -= _subtract(coefficients, other.coefficients, coefficients.get(pivot, Fraction(0))) * other.right
        if not coefficients:
            if right:
                raise DataError(f"{equation.label} contradicts {_named(solved)}")
            raise DataError(f"{equation.label} is redundant: it follows from {_named(solved)}; leave it out")
        pivot = min(coefficients, key=rank.__getitem__)
        unit = coefficients[pivot]
        coefficients = {key: value / unit for key, value in coefficients.items()}
        found = Equation(coefficients, right / unit, equation.label)
        for place, (other_pivot, other) in enumerate(solved):
            reduced = dict(other.coefficients)
            factor = _subtract(reduced, coefficients, reduced.get(pivot, Fraction(0)))
            solved[place] = other_pivot, Equation(reduced, other.right - factor * found.right, other.label)
        solved.append((pivot, found))
    for _, equation in solved:
        for value in (*equation.coefficients.values(), equation.right):
            if value and not 1 / LARGEST <= abs(value) <= LARGEST:
                raise DataError(f"{equation.label} holds numbers too large or too small")
    # an equation's own key first, which callers rely on
    return [
        Equation(
            {pivot: e.coefficients[pivot], **{k: v for k, v in e.coefficients.items() if k != pivot}}, e.right, e.label
        )
        for pivot, e in solved
    ]


def is_determined(equations: Sequence[Equation], coefficients: Mapping[Key, float]) -> bool:
    """Whether equations in reduced form leave no freedom to Σ coefficient · quantity."""
    row = {key: Fraction(value) for key, value in coefficients.items() if value}
    for equation in equations:
        pivot = next(iter(equation.coefficients))
        _subtract(row, equation.coefficients, row.get(pivot, Fraction(0)))
    return not row


def _subtract(row: dict[Key, Fraction], other: Mapping[Key, Fraction], factor: Fraction) -> Fraction:
    """row -= factor · other, zeros left out; return the factor."""
    if factor:
        for key, value in other.items():
            row[key] = row.get(key, Fraction(0)) - factor * value
            if not row[key]:
                del row[key]
    return factor


def _named(solved: Sequence[tuple[Key, Equation]]) -> str:
    if not solved:
        return "itself"
    return ", ".join(dict.fromkeys(equation.label for _, equation in solved))


def split(text: str, separators: str = ",;") -> list[str]:
    """Split a text at separators outside of parentheses and brackets; parts without white space around, none empty."""
    parts, depth, start = [], 0, 0
    for at, character in enumerate(text):
        depth += (character in "([") - (character in ")]")
        if character in separators and depth == 0:
            parts.append(text[start:at])
            start = at + 1
    return [part.strip() for part in [*parts, text[start:]] if part.strip()]


class EquationReader:
    """Reads equations such as ``"2*x1 + x3 = 1"``; nothing is evaluated as Python.

    Names are those given, whatever characters they hold (``C(x)[T.b]``, ``x1:x2``, ``var(x | school)``): the longest
    one that fits is read. White space does not count, nor do the backquotes of formulas. Numbers multiply and
    divide; names may not multiply each other.

    Parameters
    ----------
    names : dict of str to key
    """

    def __init__(self, names: Mapping[str, Key]) -> None:
        self._names: dict[str, Key] = {}
        self._ambiguous: set[str] = set()
        for name, key in names.items():
            squeezed = "".join(name.split())
            if self._names.setdefault(squeezed, key) != key:
                self._ambiguous.add(squeezed)
        self._sorted = sorted(self._names, key=len, reverse=True)
        self._shown = list(names)

    def read(self, text: str) -> list[Equation]:
        """Return the equations of a text: one, or ``a = b = 0`` or ``a = 1; b = 2`` for several.

        Raises
        ------
        FormulaError
            If it cannot be read, names what is not there, or is not linear.
        """
        out = []
        for part in split(text, ";"):
            self._text, self._at, self._depth = self._squeezed(part), 0, 0
            sides = [self._sum()]
            while self._take("="):
                sides.append(self._sum())
            if self._at < len(self._text):
                self._fail(f"cannot read '{self._text[self._at :]}'")
            if len(sides) < 2:
                self._fail("has no '='")
            for left, right in pairwise(sides):
                out.append(self._equation(left, right, part))
        if not out:
            raise FormulaError(f"constraint {text!r} is empty")
        return out

    def _squeezed(self, text: str) -> str:
        """The text without white space, and without the backquotes that names have in formulas."""
        text = "".join(text.split())
        return text if any("`" in name for name in self._names) else text.replace("`", "")

    def _equation(self, left: dict[Key, Fraction], right: dict[Key, Fraction], label: str) -> Equation:
        row = dict(left)
        _subtract(row, right, Fraction(1))
        constant = -row.pop(CONSTANT, Fraction(0))
        if not row:
            self._fail("leaves no parameter")
        return Equation(row, constant, f"'{label if len(label) <= SHOWN else label[:SHOWN] + ' ...'}'")

    def _fail(self, why: str) -> NoReturn:
        text = self._text if len(self._text) <= SHOWN else self._text[:SHOWN] + " ..."
        raise FormulaError(f"constraint '{text}': {why}", position=self._at)

    def _take(self, *operators: str) -> str:
        for operator in operators:
            if self._text.startswith(operator, self._at):
                self._at += len(operator)
                return operator
        return ""

    def _sum(self) -> dict[Key, Fraction]:
        total: dict[Key, Fraction] = {}
        sign = self._take("+", "-")
        while True:
            _subtract(total, self._product(), Fraction(1 if sign == "-" else -1))
            sign = self._take("+", "-")
            if not sign:
                return total

    def _product(self) -> dict[Key, Fraction]:
        total = self._operand()
        while operator := self._take("*", "/"):
            other = self._operand()
            if operator == "*" and not set(total) - {CONSTANT}:
                total, other = other, total
            if set(other) - {CONSTANT}:
                self._fail("is not linear: parameters can only be multiplied by numbers")
            number = other.get(CONSTANT, Fraction(0))
            if operator == "/" and not number:
                self._fail("divides by zero")
            number = 1 / number if operator == "/" else number
            total = {key: value * number for key, value in total.items() if number}
        return total

    def _operand(self) -> dict[Key, Fraction]:
        for name in self._sorted:
            if self._text.startswith(name, self._at) and self._ends(name):
                if name in self._ambiguous:
                    self._fail(f"'{name}' may mean several parameters")
                self._at += len(name)
                return {self._names[name]: Fraction(1)}
        if self._take("-"):
            self._nest()
            return {key: -value for key, value in self._operand().items()}
        if self._take("("):
            self._nest()
            inner = self._sum()
            if not self._take(")"):
                self._fail("a parenthesis is not closed")
            return inner
        number = _NUMBER.match(self._text, self._at)
        if number is not None:
            self._must_be_moderate(number.group())
            self._at = number.end()
            value = Fraction(number.group())
            return {CONSTANT: value} if value else {}
        word = _WORD.match(self._text, self._at)
        if word is None:
            self._fail("a number or a parameter is missing")
        self._fail(f"no parameter '{word.group()}'; there are {', '.join(self._shown) or 'none'}")

    def _must_be_moderate(self, number: str) -> None:
        zero = not number.lower().split("e")[0].strip("0.")
        if not zero and not 1 / LARGEST <= float(number) <= LARGEST:
            self._fail(f"the number {number[:SHOWN]} is too large or too small")

    def _nest(self) -> None:
        self._depth += 1
        if self._depth > MAX_NESTING:
            self._fail(f"more than {MAX_NESTING} signs and parentheses")

    def _ends(self, name: str) -> bool:
        """Whether the name is not the beginning of a longer word."""
        after = self._text[self._at + len(name) : self._at + len(name) + 1]
        return not (after and (after.isalnum() or after in "_.[:") and (name[-1].isalnum() or name[-1] == "_"))
