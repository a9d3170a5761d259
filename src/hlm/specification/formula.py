"""lme4's formulas: text to a frozen tree of terms, random terms and offsets. Nothing is ever evaluated as Python."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from hlm.errors import DataTypeError, FormulaError
from hlm.specification.expression import CATEGORICAL, read_arithmetic, read_call, read_name
from hlm.specification.tokens import Cursor, Token, describe
from hlm.specification.tree import Call, Expression, as_expression, within_and_between

__all__ = ["Expression", "Formula", "RandomTerm", "Terms", "parse"]

MAX_TERMS = 10_000
_BINDING = {"+": 1, "-": 1, "*": 2, "/": 2, "%in%": 3, ":": 4, "^": 5, "**": 5}

Term = tuple[Expression, ...]


@dataclass(frozen=True)
class Terms:
    """Columns to build: an intercept or none, and products of expressions, by degree, then in order of appearance."""

    intercept: bool
    terms: tuple[Term, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """Data columns used, in order."""
        return tuple(dict.fromkeys(c for term in self.terms for expression in term for c in expression.columns))


@dataclass(frozen=True)
class RandomTerm:
    """One random term: effects that vary over the levels of one grouping factor.

    Attributes
    ----------
    effects : Terms
    groups : tuple of str
        Grouping columns; several make the factor of their combinations.
    correlated : bool
        False for a part of a ``||`` term, which is split into one RandomTerm for each of its terms.
    text : str
        The term as written.
    position : int
    """

    effects: Terms
    groups: tuple[str, ...]
    correlated: bool
    text: str
    position: int

    @property
    def name(self) -> str:
        """Name of the grouping factor: ``a:b``."""
        return ":".join(self.groups)


@dataclass(frozen=True)
class Formula:
    """A parsed formula.

    Attributes
    ----------
    text : str
    response : Expression
    offsets : tuple of Expression
    fixed : Terms
    random : tuple of RandomTerm
        In order of appearance; ``a/b/c`` and ``||`` already expanded.
    columns : tuple of str
        All data columns used, in order of first use.
    """

    text: str
    response: Expression
    offsets: tuple[Expression, ...]
    fixed: Terms
    random: tuple[RandomTerm, ...]
    columns: tuple[str, ...]


def parse(text: str) -> Formula:
    """Parse a formula in lme4's notation.

    Parameters
    ----------
    text : str
        For example ``"y ~ x * z + offset(w) + (x | school/class)"``.

    Returns
    -------
    Formula

    Raises
    ------
    DataTypeError
        If `text` is not a string.
    FormulaError
        If it cannot be read; the message shows the place with a caret, `.position` holds it.
    """
    if not isinstance(text, str):
        raise DataTypeError(f"formula must be a string, got {type(text).__name__}")
    if not text.strip():
        raise FormulaError("empty formula: write it as 'response ~ terms + (terms | group)'", position=0)
    return _parse(text)


@lru_cache(maxsize=128)
def _parse(text: str) -> Formula:
    cursor = Cursor(text)
    response = _read_response(cursor)
    algebra = _Algebra(cursor)
    terms = algebra.read()
    if cursor.at("|", "||"):
        cursor.fail("a random term must stand in parentheses: (terms | group)")
    if cursor.next.kind != "end":
        cursor.fail(f"expected an operator, found {describe(cursor.next)}")
    fixed = algebra.finish(terms)
    _check_random(cursor, algebra.random)
    _check_response(cursor, response, fixed, algebra)
    columns = _columns_in_order(response, fixed, algebra)
    return Formula(text, response, tuple(algebra.offsets), fixed, tuple(algebra.random), columns)


def parse_terms(text: str) -> Terms:
    """Parse a one-sided formula, ``"~ x + z"``: terms without a response, random terms or offsets.

    Raises
    ------
    FormulaError
        If it cannot be read; the message shows the place with a caret.
    """
    cursor = Cursor(text)
    if not cursor.at("~"):
        cursor.fail("a one-sided formula begins with '~': '~ x + z'")
    cursor.take()
    if cursor.next.kind == "end":
        cursor.fail("no terms right of '~'")
    algebra = _Algebra(cursor)
    masks = algebra.read()
    if cursor.next.kind != "end":
        cursor.fail(f"expected an operator, found {describe(cursor.next)}")
    if algebra.random or algebra.offsets:
        cursor.fail("random terms and offsets have no place in a one-sided formula", cursor.tokens[0])
    return algebra.finish(masks)


def _read_response(cursor: Cursor) -> Expression:
    tildes = [token for token in cursor.tokens if token.text == "~" and token.kind == "operator"]
    if not tildes:
        cursor.fail("no '~' in the formula: write it as 'response ~ terms'", cursor.tokens[-1])
    if len(tildes) > 1:
        cursor.fail("a formula has one '~'", tildes[1])
    if cursor.at("~"):
        cursor.fail("no response left of '~'")
    start = cursor.next
    response = as_expression(read_arithmetic(cursor))
    if not cursor.at("~"):
        cursor.fail(f"expected '~' after the response, found {describe(cursor.next)}")
    if not response.columns:
        cursor.fail("the response names no column", start)
    cursor.take()
    if cursor.next.kind == "end":
        cursor.fail("no terms right of '~': write 1 for an intercept alone")
    return response


class _Algebra:
    """Wilkinson and Rogers's algebra of terms on bit masks: bit k of a term stands for the k-th variable met.

    A set of terms is a dict of masks, in order. The empty mask is the intercept's own term; whether there is an
    intercept at all is settled by the last 0 or 1 read, as in R.
    """

    def __init__(self, cursor: Cursor, *, inside_random: bool = False) -> None:
        self.cursor = cursor
        self.intercept = True
        self.offsets: list[Expression] = []
        self.random: list[RandomTerm] = []
        self._inside_random = inside_random
        self._variables: dict[Expression | Token, int] = {}
        self._alone: dict[int, Token] = {}  # offsets and random terms: may be added, nothing else
        self._added = True  # False while the right-hand side of a minus is read

    def read(self, least: int = 1) -> dict[int, None]:
        """Read terms joined by operators that bind at least as tightly as `least`."""
        cursor = self.cursor
        with cursor.nested():
            left = self._read_signed()
            while cursor.next.kind == "operator" and _BINDING.get(cursor.next.text, 0) >= least:
                operator = cursor.take()
                if operator.text in ("^", "**"):
                    left = self._power(left, operator)
                    continue
                added = self._added
                self._added = added != (operator.text == "-")
                right = self.read(_BINDING[operator.text] + 1)
                self._added = added
                left = self._combine(operator, left, right)
        return left

    def finish(self, masks: dict[int, None]) -> Terms:
        """Return the terms in R's order: by degree, then by appearance; factors in order of appearance in each."""
        variables = list(self._variables)
        terms = []
        for mask in sorted(masks, key=int.bit_count):
            alone = next((bit for bit in self._alone if mask & bit), 0)
            if alone and mask != alone:
                self.cursor.fail("a random term or an offset can only be added", self._alone[alone])
            if mask and not alone:
                terms.append(tuple(v for v in (variables[k] for k in _bits(mask)) if isinstance(v, Expression)))
        return Terms(self.intercept, tuple(terms))

    def _bit(self, variable: Expression | Token) -> dict[int, None]:
        return {1 << self._variables.setdefault(variable, len(self._variables)): None}

    def _alone_bit(self, token: Token) -> dict[int, None]:
        """Return a term of its own for an offset or a random term, so that whatever multiplies it shows up."""
        if not self._added:
            self.cursor.fail("a random term or an offset cannot be subtracted", token)
        masks = self._bit(token)
        self._alone.update(dict.fromkeys(masks, token))
        return masks

    def _read_signed(self) -> dict[int, None]:
        """Read an operand, with a sign where a sum begins; ``+ -1`` is R's idiom, other doubled operators are slips."""
        cursor = self.cursor
        previous = cursor.previous
        begins = previous.text in ("~", "(", "|", "||")
        idiom = previous.text == "+" and cursor.at("-") and cursor.tokens[cursor.index + 1].kind == "number"
        if not (cursor.at("+", "-") and (begins or idiom)):
            return self._read_operand()
        if cursor.take().text == "+":
            return self.read(2)
        self._added = not self._added
        self.read(2)
        self._added = not self._added
        return {}

    def _read_operand(self) -> dict[int, None]:
        cursor = self.cursor
        token = cursor.next
        if cursor.at("("):
            if cursor.index in cursor.bars:
                return self._read_random()
            cursor.take()
            masks = self.read()
            cursor.expect(")")
            return masks
        if token.kind == "number":
            return self._read_number()
        if cursor.at_call:
            return self._read_function()
        if token.kind in ("name", "quoted"):
            return self._bit(as_expression(read_name(cursor)))
        if token.kind == "operator" and token.text in _BINDING:
            cursor.fail(f"unexpected operator '{token.text}' after {describe(cursor.previous)}: expected a term")
        cursor.fail(f"expected a term, found {describe(token)}")

    def _read_number(self) -> dict[int, None]:
        token = self.cursor.take()
        if token.text not in ("0", "1"):
            self.cursor.fail(f"the number {token.text} is no term: only 0 and 1 (no intercept, intercept) are", token)
        one = token.text == "1"
        self.intercept = one == self._added
        return {0: None} if one else {}

    def _read_function(self) -> dict[int, None]:
        cursor = self.cursor
        token = cursor.next
        cursor.operators = 0
        call = read_call(cursor)
        if call.function == "within_between":
            return {bit: None for part in within_and_between(call) for bit in self._bit(as_expression(part))}
        if call.function != "offset":
            expression = as_expression(call)
            if not expression.columns:
                cursor.fail(f"{call.text} names no column", token)
            return self._bit(expression)
        if self._inside_random:
            cursor.fail("an offset cannot stand inside a random term", token)
        self.offsets.append(as_expression(call.argument))
        return self._alone_bit(token)

    def _power(self, left: dict[int, None], operator: Token) -> dict[int, None]:
        exponent = self.cursor.next
        # the first nine digits tell: int() refuses thousands of them
        if exponent.kind != "number" or not exponent.text.isdecimal() or int(exponent.text[:9]) < 1:
            self.cursor.fail("the power of a term must be a positive integer; write I(x^2) for a square", exponent)
        self.cursor.take()
        result = left
        for _ in range(int(exponent.text[:9]) - 1):  # ends when nothing new comes
            product = self._combine(operator, result, left)
            if len(product) == len(result):
                break
            result = product
        return result

    def _combine(self, operator: Token, left: dict[int, None], right: dict[int, None]) -> dict[int, None]:
        kind = operator.text
        if kind == "+":
            left.update(right)
        elif kind == "-":
            for mask in right:
                left.pop(mask, None)
        elif kind == "/":
            union = 0
            for mask in left:
                union |= mask
            left = {**left, **{union | mask: None for mask in right}}
        else:
            if len(left) * len(right) > MAX_TERMS:
                self.cursor.fail(f"expands to more than {MAX_TERMS:,} terms", operator)
            products = {a | b: None for a in left for b in right}
            if kind == "*":
                left = {**left, **right, **products}
            else:
                left = {**left, **products} if kind in ("^", "**") else products
        if len(left) > MAX_TERMS:
            self.cursor.fail(f"expands to more than {MAX_TERMS:,} terms", operator)
        return left

    def _read_random(self) -> dict[int, None]:
        cursor = self.cursor
        if self._inside_random:
            cursor.fail("a random term cannot stand inside another one")
        opening = cursor.take()
        algebra = _Algebra(cursor, inside_random=True)
        if cursor.at("|", "||"):
            cursor.fail("no effects in front of '|': write (1 | group) for a random intercept")
        effects = algebra.finish(algebra.read())
        if not cursor.at("|", "||"):
            cursor.fail(f"expected '|', found {describe(cursor.next)}")
        correlated = cursor.take().text == "|"
        groups = self._read_groups(opening)
        text = " ".join(cursor.text[opening.position : cursor.take().position + 1].split())
        if not (effects.intercept or effects.terms):
            cursor.fail(f"the random term {text} has no columns", opening)
        for group in groups:
            for part in [effects] if correlated else _split(effects):
                self.random.append(RandomTerm(part, group, correlated, text, opening.position))
        return self._alone_bit(opening)

    def _read_groups(self, opening: Token) -> list[tuple[str, ...]]:
        cursor = self.cursor
        start = cursor.next
        if cursor.at(")"):
            text = " ".join(cursor.text[opening.position : start.position + 1].split())
            cursor.fail(f"no grouping column after '|' in {text}")
        algebra = _Algebra(cursor, inside_random=True)
        terms = algebra.finish(algebra.read()).terms
        if not cursor.at(")"):
            cursor.fail(f"expected ')' after the grouping column, found {describe(cursor.next)}")
        if not terms:
            cursor.fail("no grouping column after '|'", start)
        return [tuple(_group_column(cursor, expression) for expression in term) for term in terms]


def _bits(mask: int) -> Iterator[int]:
    """Positions of the bits that are set, lowest first."""
    while mask:
        lowest = mask & -mask
        yield lowest.bit_length() - 1
        mask ^= lowest


def _split(effects: Terms) -> list[Terms]:
    """Return the intercept and each term on its own, as lme4 reads ``||``; a categorical stays one block."""
    alone = [Terms(True, ())] if effects.intercept else []
    return alone + [Terms(False, (term,)) for term in effects.terms]


def _group_column(cursor: Cursor, expression: Expression) -> str:
    """Return the column of a grouping factor; R's ``factor(g)`` is g."""
    node = expression.node
    if isinstance(node, Call) and node.function in CATEGORICAL and not node.options:
        expression = as_expression(node.argument)
    if not expression.is_column:
        token = Token("operator", expression.text, expression.position)
        cursor.fail(f"a grouping factor must be a column, got {expression.text}", token)
    return expression.columns[0]


def _check_random(cursor: Cursor, random: list[RandomTerm]) -> None:
    seen: set[tuple[Terms, frozenset[str]]] = set()
    for term in random:
        key = (term.effects, frozenset(term.groups))
        if key in seen:
            token = next(token for token in cursor.tokens if token.position == term.position)
            effects = ["1" if term.effects.intercept else "0"]
            effects += [":".join(expression.text for expression in product) for product in term.effects.terms]
            cursor.fail(f"the term ({' + '.join(effects)} | {term.name}) appears twice", token)
        seen.add(key)


def _check_response(cursor: Cursor, response: Expression, fixed: Terms, algebra: _Algebra) -> None:
    for expression in _expressions(fixed, algebra):
        if expression == response or (response.is_column and response.text in expression.columns):
            token = Token("name", expression.text, expression.position)
            cursor.fail(f"response '{response.text}' also appears on the right", token)
    for term in algebra.random:
        if response.is_column and response.text in term.groups:
            token = next(token for token in cursor.tokens if token.position == term.position)
            cursor.fail(f"response '{response.text}' cannot also be the grouping column", token)


def _expressions(fixed: Terms, algebra: _Algebra) -> list[Expression]:
    """All expressions right of the tilde."""
    parts = [fixed, *(term.effects for term in algebra.random)]
    return [expression for part in parts for term in part.terms for expression in term] + algebra.offsets


def _columns_in_order(response: Expression, fixed: Terms, algebra: _Algebra) -> tuple[str, ...]:
    uses = [(expression.position, expression.columns) for expression in _expressions(fixed, algebra)]
    uses += [(term.position, term.effects.columns + term.groups) for term in algebra.random]
    ordered = [response.columns, *(columns for _, columns in sorted(uses, key=lambda use: use[0]))]
    return tuple(dict.fromkeys(column for columns in ordered for column in columns))
