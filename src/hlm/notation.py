"""Level equations in print: as text that can be read back, in Unicode, in LaTeX."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from hlm.errors import DataError
from hlm.level_equations import LevelEquations
from hlm.levels import Levels
from hlm.specification.equations import Disturbance, Effect, Equation, spelt
from hlm.specification.substitution import FIXED

FORMATS = ("text", "unicode", "latex")

_WORDS = ("alpha", "beta", "gamma", "delta", "kappa", "lambda", "mu", "pi")
_GREEK = dict(zip("abgdklmp", _WORDS, strict=True))
_SYMBOLS = dict(zip(_WORDS, "αβγδκλμπ", strict=True))
_SUBSCRIPTS = dict(zip("0123456789ijklmnoprstuvx,_", "₀₁₂₃₄₅₆₇₈₉ᵢⱼₖₗₘₙₒₚᵣₛₜᵤᵥₓ,,", strict=True))
# Letters that number the units of the levels, the rows first.
UNITS = "ijklmnoprstuv"


def show_equations(equations: LevelEquations, format: str, estimates: Mapping[str, float] | None = None) -> str:
    """Return all equations of a model as one string.

    Parameters
    ----------
    equations : LevelEquations
    format : {"text", "unicode", "latex"}
        "text" can be given to `Model.from_equations` again.
    estimates : mapping, optional
        Numbers to show in the place of coefficients.

    Raises
    ------
    DataError
        For another format.
    """
    if format not in FORMATS:
        raise DataError(f"format must be one of {', '.join(map(repr, FORMATS))}, got {format!r}")
    kind = {"text": _Text, "unicode": _Unicode, "latex": _Latex}[format]
    return kind(equations, dict(estimates or {})).document()


@dataclass
class _Text:
    """Plain text; the other notations differ in how they spell symbols."""

    equations: LevelEquations
    estimates: dict[str, float]

    times = "*"
    equals = " = "

    @property
    def levels(self) -> Levels:
        return self.equations.levels

    def document(self) -> str:
        lines: list[str] = []
        shown = 0
        for level, equation in self.equations.numbered():
            if level != shown:
                lines.append(f"# {self.heading(level)}")
                shown = level
            lines.append(self.equation(equation, level))
        return "\n".join([*lines, "# combined", f"# {self.equation(self.equations.combined(), 1)}"])

    def heading(self, level: int) -> str:
        units = [name for name, number in self.levels.number.items() if number == level]
        return f"level {level}: {' and '.join(units) if units else 'rows' if level == 1 else 'groups'}"

    def equation(self, equation: Equation, level: int) -> str:
        """One equation of a level; that of level 1 gets its error."""
        parts = [self.summand(part, level) for part in equation.parts]
        if level == 1:
            parts.append(self.residual_symbol())
        right = parts[0] if parts else "0"
        for part in parts[1:]:
            right += f" - {part[1:]}" if part.startswith("-") else f" + {part}"
        left = self.variable(equation.left, 1) if level == 1 else self.coefficient(equation.left, level)
        return f"{left}{self.equals}{right}"

    def summand(self, part: Effect | Disturbance, level: int) -> str:
        if isinstance(part, Disturbance):
            first = self.error(part)
        elif isinstance(part.coefficient, str) and part.coefficient not in self.estimates:
            has_equation = any(e.left == part.coefficient for e in self.equations.equations[1:])
            first = self.coefficient(part.coefficient, level + 1 if has_equation else None)
        else:
            first = self.number(self.estimates.get(str(part.coefficient), part.coefficient))
        return self.times.join([first, *(self.variable(text, level) for text in part.regressors)])

    def number(self, value: float | str) -> str:
        return f"{float(value):.6g}" if self.estimates else repr(float(value)).removesuffix(".0")

    def coefficient(self, name: str, level: int | None) -> str:
        return name

    def error(self, part: Disturbance) -> str:
        return part.symbol

    def variable(self, text: str, level: int) -> str:
        return spelt(text)

    def residual_symbol(self) -> str:
        taken = {*self.levels.homes, *(e.left for e in self.equations.equations)}
        return next(name for name in ("e", "r", "eps", "epsilon", "ε", "e") if name not in taken or name == "ε")


class _Unicode(_Text):
    """Greek letters with subscripts."""

    times = "·"

    def document(self) -> str:
        lines: list[str] = []
        shown = 0
        for level, equation in self.equations.numbered():
            if level != shown:
                units = [f"{n} {self.unit(n)}" for n, number in self.levels.number.items() if number == level]
                lines.append(f"Level {level}" + (f" ({' and '.join(units)})" if units else ""))
                shown = level
            lines.append(f"  {self.equation(equation, level)}")
        lines += ["Combined", f"  {self.equation(self.equations.combined(), 1)}", "Distributions"]
        return "\n".join([*lines, *(f"  {line}" for line in self.distributions())])

    def distributions(self) -> list[str]:
        """The distribution of each error: independent between levels, correlated within."""
        lines = [f"{self.residual_symbol()} ~ N(0, σ²)"]
        for name, symbols in self.errors().items():
            T = "T" if len(self.errors()) == 1 else f"T({name})"
            lines.append(f"({', '.join(symbols)}) ~ N(0, {T})" if len(symbols) > 1 else f"{symbols[0]} ~ N(0, {T})")
        return lines

    def errors(self) -> dict[str, list[str]]:
        """Symbols of the errors of each grouping."""
        found: dict[str, list[str]] = {}
        for equation in self.equations.equations:
            for part in (part for part in equation.disturbances if part.name != FIXED):
                found.setdefault(":".join(part.groups), []).append(self.error(part))
        return found

    def unit(self, grouping: str) -> str:
        """Letter that numbers the units of a grouping."""
        order = sorted(self.levels.number, key=lambda name: self.levels.number[name])
        return UNITS[min(order.index(grouping) + 1, len(UNITS) - 1)]

    def letters(self, groupings: list[str]) -> str:
        """Letters of groupings and of those above them."""
        met = {*groupings, *(above for name in groupings for above in self.levels.above[name])}
        return "".join(sorted(map(self.unit, met), key=UNITS.index))

    def letters_of(self, text: str, level: int) -> str:
        """Letters of an expression: of the units in which it is constant; of an equation's level if that is unknown."""
        homes = self.levels.homes.get(text)
        own = self.levels.level_of(text) if homes is not None else level
        units = [name for name, number in self.levels.number.items() if number == own and name in (homes or (name,))]
        return self.letters(units) if own > 1 else UNITS[0] + self.letters(list(self.levels.number))

    def coefficient(self, name: str, level: int | None) -> str:
        above = [g for g, number in self.levels.number.items() if level is not None and number >= level]
        return self.symbol(name, self.letters(above))

    def error(self, part: Disturbance) -> str:
        name = "alpha" if part.name == FIXED else part.name
        return self.symbol(name, self.letters([":".join(part.groups)]), greek=False)

    def variable(self, text: str, level: int) -> str:
        return self.subscripted(text, self.letters_of(text, level))

    def residual_symbol(self) -> str:
        return self.subscripted("ε", UNITS[0] + self.letters(list(self.levels.number)))

    def symbol(self, name: str, letters: str, greek: bool = True) -> str:
        stem, digits = _split(name, greek)
        return self.subscripted(_SYMBOLS.get(stem, stem), digits + letters)

    def subscripted(self, text: str, subscript: str) -> str:
        return text + "".join(_SUBSCRIPTS.get(c, c) for c in subscript)


class _Latex(_Unicode):
    """An aligned environment of amsmath."""

    times = r" \, "
    equals = " &= "

    def document(self) -> str:
        rows = [self.equation(equation, level) for level, equation in self.equations.numbered()]
        rows += [self.equation(self.equations.combined(), 1), *self.distributions()]
        return "\\begin{align*}\n" + " \\\\\n".join(rows) + "\n\\end{align*}"

    def distributions(self) -> list[str]:
        lines = [rf"{self.residual_symbol()} &\sim N(0, \sigma^2)"]
        for name, symbols in self.errors().items():
            T = "T" if len(self.errors()) == 1 else rf"T_{{\text{{{_escaped(name)}}}}}"
            left = rf"({', '.join(symbols)})" if len(symbols) > 1 else symbols[0]
            lines.append(rf"{left} &\sim N(0, {T})")
        return lines

    def residual_symbol(self) -> str:
        return self.subscripted(r"\varepsilon", UNITS[0] + self.letters(list(self.levels.number)))

    def variable(self, text: str, level: int) -> str:
        return self.subscripted(rf"\text{{{_escaped(text)}}}", self.letters_of(text, level))

    def symbol(self, name: str, letters: str, greek: bool = True) -> str:
        stem, digits = _split(name, greek)
        known = {spelling: f"\\{word}" for word, symbol in _SYMBOLS.items() for spelling in (word, symbol)}
        word = known.get(stem, stem if len(stem) == 1 else rf"\text{{{_escaped(stem)}}}")
        return self.subscripted(word, digits.replace("_", ",") + letters)

    def subscripted(self, text: str, subscript: str) -> str:
        return f"{text}_{{{subscript}}}" if subscript else text


def _split(name: str, greek: bool) -> tuple[str, str]:
    """Split g01 into gamma and 01: a Latin letter before digits stands for a Greek one, its name always does."""
    match = re.fullmatch(r"([^\W\d_]+)_?([\d_]*)", name)
    if match is None:
        return name, ""
    stem, digits = match.groups()
    if greek and digits and stem in _GREEK:
        stem = _GREEK[stem]
    return stem, digits.strip("_")


def _escaped(text: str) -> str:
    special = {"\\": r"\textbackslash{}", "^": r"\^{}", "~": r"\~{}"}
    return "".join(special.get(c, f"\\{c}" if c in "_%&#${}" else c) for c in text)
