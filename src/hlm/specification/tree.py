"""The frozen tree that arithmetic and calls in a formula become: nodes, and an expression with its columns."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeAlias


@dataclass(frozen=True)
class Coding:
    """Contrast coding of a categorical: `kind`, and for treatment coding the reference by value or 1-based position."""

    kind: str = "treatment"
    reference: str | float | None = None
    base: int | None = None


Option: TypeAlias = "float | bool | str | tuple[float | str, ...] | Coding | Name"


@dataclass(frozen=True)
class Node:
    """One node of an arithmetic tree; `text` is its canonical spelling (R's spacing)."""

    text: str
    position: int = field(compare=False)


@dataclass(frozen=True)
class Number(Node):
    """A numeric constant."""

    value: float


@dataclass(frozen=True)
class Name(Node):
    """A column, or the constant pi: ``pi`` without backticks where the data have no such column."""

    name: str
    quoted: bool

    @property
    def is_pi(self) -> bool:
        """Whether the name may mean the constant."""
        return self.name == "pi" and not self.quoted


@dataclass(frozen=True)
class Unary(Node):
    """A sign or a pair of parentheses."""

    operator: str
    operand: Node


@dataclass(frozen=True)
class Binary(Node):
    """``left operator right``."""

    operator: str
    left: Node
    right: Node


@dataclass(frozen=True)
class Call(Node):
    """A call of an allowed function: one argument of data, constant options."""

    function: str
    argument: Node
    options: tuple[tuple[str, Option], ...]


@dataclass(frozen=True)
class Expression:
    """One factor of a term or the response: a column, or arithmetic and allowed functions of columns.

    Attributes
    ----------
    text : str
        As written, with R's spacing; a bare column's plain name.
    columns : tuple of str
        Data columns used, in order.
    node : Node
    position : int
        Where it starts in the formula.
    """

    text: str
    columns: tuple[str, ...]
    node: Node = field(compare=False, repr=False)
    position: int = field(compare=False, repr=False)

    @property
    def is_column(self) -> bool:
        """Whether it is a bare column."""
        return isinstance(self.node, Name)


def names_in(node: Node) -> Iterator[tuple[Name, bool]]:
    """Return the names in a tree, in order, and whether each says by whose groups something is centred or averaged."""
    if isinstance(node, Name):
        yield node, False
    elif isinstance(node, Unary):
        yield from names_in(node.operand)
    elif isinstance(node, Binary):
        yield from names_in(node.left)
        yield from names_in(node.right)
    elif isinstance(node, Call):
        yield from names_in(node.argument)
        yield from ((option, True) for _, option in node.options if isinstance(option, Name))


def grouping_columns(node: Node) -> Iterator[str]:
    """Return the columns by whose groups something is centred or averaged."""
    return (name.name for name, grouping in names_in(node) if grouping)


def as_expression(node: Node) -> Expression:
    """Return the Expression of a tree; equal spelling and equal columns make equal expressions."""
    if isinstance(node, Name):
        return Expression(node.name, (node.name,), node, node.position)
    columns = (name.name for name, grouping in names_in(node) if grouping or not name.is_pi)
    return Expression(node.text, tuple(dict.fromkeys(columns)), node, node.position)


def within_and_between(call: Call) -> tuple[Call, Call]:
    """Return what ``within_between(x, g)`` stands for: ``center(x, g)`` and ``mean(x, g)``."""
    inside = call.text.split("(", 1)[1]
    center, mean = (Call(f"{f}({inside}", call.position, f, call.argument, call.options) for f in ("center", "mean"))
    return center, mean
