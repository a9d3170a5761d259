"""The words of a formula, read one after the other; every error shows its place in the text."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple, NoReturn

from hlm.errors import at_position

# Keeps every recursion over a tree far from Python's own; no formula written by a person comes near.
MAX_NESTING = 50

_TOKEN = re.compile(
    r"""(?P<space>\s+)
    |(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?L?)
    |(?P<name>(?:[^\W\d]|\.(?!\d))[\w.]*)
    |(?P<quoted>`[^`]+`)
    |(?P<string>"[^"]*"|'[^']*')
    |(?P<operator>\*\*|\|\||%in%|[-+*/^:|~(),=])""",
    re.VERBOSE,
)


class Token(NamedTuple):
    """A word of the formula: its kind (number, name, quoted, string, operator, end), text and position."""

    kind: str
    text: str
    position: int


class Cursor:
    """The tokens of a formula and the place reached; every error shows its place in the text.

    Parameters
    ----------
    text : str

    Raises
    ------
    FormulaError
        At a character that belongs to no token, or an unbalanced parenthesis.
    """

    def __init__(self, text: str) -> None:
        # control characters would garble the line that the caret points into
        self.shown = "".join(c if c.isprintable() or c in "\n\t" else "?" for c in text)
        self.text = text
        self.tokens = self._tokenize()
        self.bars: dict[int, int] = {}  # opening parenthesis -> first `|` directly inside it, by index of token
        self._match_parentheses()
        self.index = 0
        self.operators = 0
        self._nesting = 0

    def fail(self, message: str, token: Token | None = None) -> NoReturn:
        """Raise a FormulaError with a caret under `token` (by default the next one)."""
        token = token or self.next
        raise at_position(message, self.shown, token.position, len(token.text))

    @property
    def next(self) -> Token:
        """The token to be read next."""
        return self.tokens[self.index]

    @property
    def previous(self) -> Token:
        """The token read last."""
        return self.tokens[self.index - 1]

    def at(self, *operators: str) -> bool:
        """Whether the next token is one of these operators."""
        return self.next.kind == "operator" and self.next.text in operators

    @property
    def at_call(self) -> bool:
        """Whether a function name and its parenthesis come next."""
        return self.next.kind == "name" and self.tokens[self.index + 1].text == "("

    def take(self) -> Token:
        """Return the next token and step over it."""
        self.index += 1
        return self.previous

    def expect(self, operator: str) -> Token:
        """Step over an operator that must come next."""
        if not self.at(operator):
            self.fail(f"expected '{operator}', found {describe(self.next)}")
        return self.take()

    @contextmanager
    def nested(self) -> Iterator[None]:
        """Count one level of nesting."""
        self._nesting += 1
        if self._nesting > MAX_NESTING:
            self.fail(f"nested more than {MAX_NESTING} deep")
        yield
        self._nesting -= 1

    def _tokenize(self) -> list[Token]:
        tokens, position = [], 0
        while position < len(self.text):
            match = _TOKEN.match(self.text, position)
            if match is None:
                bad = self.text[position]
                what = f"unclosed {bad}" if bad in "`\"'" else f"invalid character {bad!r} at position {position}"
                self.fail(what, Token("operator", bad, position))
            if match.lastgroup != "space":
                tokens.append(Token(str(match.lastgroup), match.group(), position))
            position = match.end()
        return [*tokens, Token("end", "", len(self.text))]

    def _match_parentheses(self) -> None:
        opened: list[int] = []
        for index, token in enumerate(self.tokens):
            if token.kind != "operator":
                continue
            if token.text == "(":
                opened.append(index)
            elif token.text == ")":
                if not opened:
                    self.fail("unbalanced parenthesis: ')' without '('", token)
                opened.pop()
            elif token.text in ("|", "||") and opened:
                self.bars.setdefault(opened[-1], index)
        if opened:
            self.fail("unbalanced parenthesis: '(' is never closed", self.tokens[opened[-1]])


def describe(token: Token) -> str:
    """Return a token in words."""
    return "the end of the formula" if token.kind == "end" else f"'{token.text}'"


def is_plain_name(text: str) -> bool:
    """Whether a column can be written without backticks."""
    match = _TOKEN.fullmatch(text)
    return match is not None and match.lastgroup == "name"
