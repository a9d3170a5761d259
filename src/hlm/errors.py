"""The tree of errors: every exception that hlm raises on purpose derives from `HLMError`.

Each error carries, beside its message, the place at fault as attributes, so that a program need not read prose.
"""

from __future__ import annotations

from collections.abc import Sequence

# Characters of a long formula that a message shows around the place at fault.
SHOWN = 200


class HLMError(Exception):
    """Root of the errors of this library.

    Parameters
    ----------
    message : str
        What is wrong and what to do.
    column, group, row, position : optional
        The column, the level of a grouping factor, the row (zero-based position) or the position in a text at fault.
    """

    def __init__(
        self,
        message: str,
        *,
        column: str | None = None,
        group: object = None,
        row: int | None = None,
        position: int | None = None,
    ) -> None:
        super().__init__(message)
        self.column = column
        self.group = group
        self.row = row
        self.position = position

    def of_input(self, rows: Sequence[int]) -> HLMError:
        """Return the error with its row, counted among those that are used, as a row of the input: `rows[row]`."""
        if self.row is None:
            return self
        row = int(rows[self.row])
        message = str(self).replace(f"row {self.row}", f"row {row}")
        return type(self)(message, column=self.column, group=self.group, row=row, position=self.position)


class FormulaError(HLMError, ValueError):
    """A formula that cannot be read or names what is not allowed; the message shows the place with a caret."""


class DataError(HLMError, ValueError):
    """Values that cannot be used: infinite, all missing, of unequal length, a category that was never seen."""


class DataTypeError(HLMError, TypeError):
    """A column or argument of the wrong type."""


class DesignError(HLMError, ValueError):
    """A model that the data or this version of the engine cannot carry: crossed factors, one row per level."""


class NumericalError(HLMError, ArithmeticError):
    """A computation met numbers it cannot go on with: overflow, a block not positive definite, a failed search."""


class DegenerateError(NumericalError, ValueError):
    """A likelihood without a maximum: a response constant, constant within groups, or reproduced without residual."""


class RankDeficientWarning(UserWarning):
    """Fixed columns are linear combinations of earlier ones: they are left out, and have no estimate."""


def at_position(message: str, text: str, position: int, length: int = 1) -> FormulaError:
    """Return a `FormulaError` whose message shows `text` with a caret under ``text[position:position + length]``."""
    line = text.replace("\n", " ").replace("\t", " ")
    start = max(0, position - SHOWN // 2) if len(line) > SHOWN else 0
    cut = "... " if start else ""
    line = cut + line[start : start + SHOWN] + (" ..." if len(line) > start + SHOWN else "")
    marker = " " * (position - start + len(cut)) + "^" * max(1, min(length, SHOWN))
    return FormulaError(f"{message}\n    {line}\n    {marker}", position=position)


def show(label: object) -> str:
    """Return a label as a message should show it: quoted text, numbers without their NumPy type, tuples likewise."""
    if isinstance(label, tuple):
        return "(" + ", ".join(show(part) for part in label) + ")"
    item = getattr(label, "item", None)
    return repr(item() if callable(item) else label)
