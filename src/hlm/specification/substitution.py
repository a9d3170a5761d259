"""From level equations to the combined equation: each coefficient replaced by its own equation, as lme4's terms."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from hlm.errors import DataTypeError, DesignError
from hlm.specification.equations import Disturbance, Effect, Equation, read_expression, spelt, suggestion
from hlm.specification.expression import BASES, CATEGORICAL
from hlm.specification.formula import Formula, RandomTerm, Term, Terms
from hlm.specification.tree import Binary, Call, Expression, Node, Number, as_expression

# The name in front of brackets that means a fixed intercept for each group, not a random one.
FIXED = "fixed"


@dataclass(frozen=True)
class Regressor:
    """A regressor where it stands: the equation of a coefficient, and the levels of that equation's errors."""

    expression: Expression
    equation: Equation
    groups: tuple[str, ...]


@dataclass(frozen=True)
class Substitution:
    """A model of equations after all coefficients were replaced.

    Attributes
    ----------
    equations : tuple of Equation
        As given; the first one is that of level 1.
    formula : Formula
        The combined equation.
    symbols : dict
        The coefficient of each fixed term, the term as a set of expressions.
    upper : tuple of Regressor
        Regressors of all equations but the first.
    groups : tuple of str
        Names of all levels that have an error.
    absorbed : tuple of str
        Grouping columns of ``fixed[school]``: an intercept for each group; empty without.
    """

    equations: tuple[Equation, ...]
    formula: Formula
    symbols: dict[frozenset[Expression], str]
    upper: tuple[Regressor, ...]
    groups: tuple[str, ...]
    absorbed: tuple[str, ...]


def substitute(equations: Sequence[Equation], columns: Collection[str]) -> Substitution:
    """Replace each coefficient by its own equation.

    Fixed terms come by degree, then by the regressors as they are met from the level-1 equation down: the order of the
    columns of the formula ``y ~ x * (z + w) + (x | g)``.

    Parameters
    ----------
    equations : sequence of Equation
        First that of level 1.
    columns : collection of str
        Names of the columns of the data.

    Raises
    ------
    FormulaError
        If a coefficient is used twice or never, has two equations, or is called like a column; if an error stands in
        two equations; if two summands have the same regressors. The message names line and symbol.
    """
    equations = tuple(equations)
    if not equations or not all(isinstance(equation, Equation) for equation in equations):
        raise DataTypeError("equations must be a string or a list of hlm.Equation, the level-1 equation first")
    response = _read_response(equations[0], columns)
    by_left = _by_left(equations, columns)
    expansion = _Expansion(equations[0], by_left, columns)
    expansion.run()
    for left, equation in by_left.items():
        if left not in expansion.used:
            equation.fail(f"'{left}' has an equation, but no other equation has it as a coefficient", left)
    for expression, equation in expansion.met.items():
        if expression == response or (response.is_column and response.text in expression.columns):
            equation.fail(f"response '{response.text}' also appears on the right", expression.text)
    return Substitution(
        equations,
        expansion.formula(response),
        {frozenset(term): name for term, name in expansion.fixed.items()},
        tuple(expansion.upper),
        tuple(":".join(groups) for groups in expansion.random),
        expansion.check_absorbed(),
    )


def _read_response(first: Equation, columns: Collection[str]) -> Expression:
    left = first.left.strip("`")
    try:
        return read_expression(left, columns)
    except ValueError:
        hint = suggestion(left, columns)
        first.fail(f"the first equation is that of level 1: its left side, '{left}', must be a column{hint}", left)


def _by_left(equations: tuple[Equation, ...], columns: Collection[str]) -> dict[str, Equation]:
    found: dict[str, Equation] = {}
    for equation in equations[1:]:
        left = equation.left
        if left in columns:
            equation.fail(f"'{left}' is a column of the data and cannot have an equation: only coefficients do", left)
        if left in found:
            equation.fail(f"'{left}' has an equation already{_at(found[left])}", left)
        found[left] = equation
    return found


def _at(equation: Equation) -> str:
    return "" if equation.line is None else f" (line {equation.line})"


class _Expansion:
    """The equations walked from the level-1 equation down."""

    def __init__(self, first: Equation, by_left: dict[str, Equation], columns: Collection[str]) -> None:
        self.by_left = by_left
        self.columns = columns
        self.first = first
        self.used: dict[str, Equation] = {}
        self.errors: dict[str, Equation] = {}
        self.fixed: dict[Term, str] = {}
        self.known: list[tuple[Effect, Term, Equation]] = []
        self.random: dict[tuple[str, ...], list[Term]] = {}
        self.upper: list[Regressor] = []
        self.met: dict[Expression, Equation] = {}  # each expression with the equation where it is met first
        self.absorbed: tuple[Disturbance, Equation] | None = None
        self._terms: dict[tuple[object, frozenset[Expression]], str] = {}

    def run(self) -> None:
        """Walk breadth first, so that regressors of lower levels come first."""
        waiting: deque[tuple[Equation, Term]] = deque([(self.first, ())])
        while waiting:
            equation, prefix = waiting.popleft()
            groups = tuple(":".join(part.groups) for part in equation.disturbances)
            for part in equation.parts:
                term = self._product(part, equation, prefix)
                if equation is not self.first:
                    self.upper += [Regressor(e, equation, groups) for e in term[len(prefix) :]]
                if isinstance(part, Disturbance):
                    self._add_error(part, term, equation)
                elif part.is_known:
                    self._add_known(part, term, equation)
                else:
                    below = self._add_coefficient(str(part.coefficient), term, equation)
                    if below is not None:
                        waiting.append((below, term))

    def _product(self, part: Effect | Disturbance, equation: Equation, prefix: Term) -> Term:
        term = prefix
        for text in part.regressors:
            try:
                expression = read_expression(text, self.columns)
            except ValueError as error:
                equation.fail(str(error).split("\n", 1)[0], text)
            if expression in term:
                equation.fail(f"'{text}' is multiplied with itself: write I({text}^2) for a square", text)
            self.met.setdefault(expression, equation)
            term = (*term, expression)
        return term

    def _once(self, kind: object, term: Term, symbol: str, equation: Equation) -> None:
        """Refuse a second summand with the same regressors."""
        key = (kind, frozenset(term))
        other = self._terms.setdefault(key, symbol)
        if other != symbol:
            what = "are intercepts" if not term else f"have the regressor {':'.join(e.text for e in term)}"
            equation.fail(f"'{other}' and '{symbol}' both {what}: they cannot be told apart", symbol)

    def _add_coefficient(self, name: str, term: Term, equation: Equation) -> Equation | None:
        if name in self.columns:
            equation.fail(f"'{name}' is a column: it needs a coefficient, and none may be called like it", name)
        if name in self.used:
            equation.fail(f"the coefficient '{name}' is used twice{_at(self.used[name])}: give each one a name", name)
        self.used[name] = equation
        below = self.by_left.get(name)
        if below is not None:
            return below
        self._once("fixed", term, name, equation)
        self.fixed[term] = name
        return None

    def _add_known(self, part: Effect, term: Term, equation: Equation) -> None:
        if not math.isfinite(float(part.coefficient)):
            equation.fail(f"the coefficient {part.coefficient} is no finite number")
        for expression in term:
            node = expression.node
            if isinstance(node, Call) and node.function in CATEGORICAL | BASES:
                equation.fail(f"a coefficient that is a number cannot multiply the columns of {expression.text}")
        self.known.append((part, term, equation))

    def _add_error(self, part: Disturbance, term: Term, equation: Equation) -> None:
        for group in part.groups:
            if group not in self.columns:
                hint = suggestion(group, self.columns)
                equation.fail(f"in brackets stands a grouping column; '{group}' is not a column{hint}", part.symbol)
        if part.name in self.errors:
            place = _at(self.errors[part.name])
            equation.fail(
                f"the error '{part.name}' stands in two equations{place}: give each its own name", part.symbol
            )
        if part.name in self.columns or part.name in self.by_left or part.name in self.used:
            equation.fail(f"'{part.name}' is a column or a coefficient, and cannot be an error too", part.symbol)
        self.errors[part.name] = equation
        if part.name == FIXED:
            if term:
                equation.fail(f"'{part.symbol}' stands for intercepts: it has no regressors", part.symbol)
            self.absorbed = (part, equation)
            return
        self._once(part.groups, term, part.symbol, equation)
        self.random.setdefault(part.groups, []).append(term)

    def check_absorbed(self) -> tuple[str, ...]:
        """Return the grouping columns of fixed intercepts, which allow no other intercept and no random errors."""
        if self.absorbed is None:
            return ()
        part, equation = self.absorbed
        if () in self.fixed:
            equation.fail(f"'{self.fixed[()]}' is an intercept beside '{part.symbol}': leave it out", part.symbol)
        if self.random:
            equation.fail(f"random errors beside '{part.symbol}': write C({part.groups[0]}) for dummies", part.symbol)
        return part.groups

    def formula(self, response: Expression) -> Formula:
        """Return the combined equation."""
        fixed = self._terms_of(list(self.fixed))
        known = [(part, term) for part, term, _ in self.known if float(part.coefficient) != 0.0]
        offsets = tuple(_offset(float(part.coefficient), self._sorted(term)) for part, term in known)
        random = []
        for groups, terms in self.random.items():
            random.append(random_term(self._terms_of(terms), groups))
        used = [response, *self.met]
        columns = [column for expression in used for column in expression.columns]
        columns += [column for groups in (*self.random, self.check_absorbed()) for column in groups]
        return Formula(
            formula_text(response, fixed, offsets, random),
            response,
            offsets,
            fixed,
            tuple(random),
            tuple(dict.fromkeys(columns)),
        )

    def _order(self, term: Term) -> list[int]:
        order = {expression: k for k, expression in enumerate(self.met)}
        return sorted(order[expression] for expression in term)

    def _sorted(self, term: Term) -> Term:
        expressions = list(self.met)
        return tuple(expressions[k] for k in self._order(term))

    def _terms_of(self, terms: list[Term]) -> Terms:
        ordered = sorted((term for term in terms if term), key=lambda term: (len(term), self._order(term)))
        return Terms(() in terms, tuple(self._sorted(term) for term in ordered))


def random_term(effects: Terms, groups: tuple[str, ...], correlated: bool = True) -> RandomTerm:
    """Return a random term with its text."""
    return RandomTerm(effects, groups, correlated, f"({_text_of(effects)} | {':'.join(map(spelt, groups))})", 0)


def formula_text(
    response: Expression, fixed: Terms, offsets: Sequence[Expression], random: Sequence[RandomTerm]
) -> str:
    """Return a formula as lme4 would have it."""
    known = (f"offset({offset.text})" for offset in offsets)
    return f"{spelt(response.text)} ~ {' + '.join([_text_of(fixed), *known, *(term.text for term in random)])}"


def _text_of(terms: Terms) -> str:
    products = (":".join(spelt(expression.text) for expression in term) for term in terms.terms)
    return " + ".join(["1" if terms.intercept else "0", *products])


def _offset(value: float, term: Term) -> Expression:
    """Return the product of a number and regressors as one expression."""
    node: Node = Number(f"{value!r}", 0, value)
    for expression in term:
        text = spelt(expression.text)
        node = Binary(f"{node.text} * {text}", 0, "*", node, expression.node)
    return as_expression(node)


def check_levels(
    substitution: Substitution,
    levels: Collection[str],
    unit: Callable[[Expression, str], tuple[str, object] | None],
    is_below: Callable[[str, str], bool],
) -> None:
    """Refuse a regressor of the upper equations that varies inside the units of all levels it could belong to.

    Parameters
    ----------
    substitution : Substitution
    levels : collection of str
        Levels that are known: those with an error, and those with a table.
    unit : callable
        For an expression and a level: None if it is constant in each unit, else a unit in which it varies, in words and
        as its label.
    is_below : callable
        Whether the first level is nested in the second.

    Raises
    ------
    DesignError
        Naming line, regressor, level and unit.
    """
    for regressor in substitution.upper:
        # beside the levels of the equation's errors only others that are crossed with them, or above
        own = regressor.groups
        others = (level for level in levels if level not in own and not any(is_below(level, g) for g in own))
        found: list[tuple[str, tuple[str, object]]] = []
        for level in (*own, *others):
            where = unit(regressor.expression, level)
            if where is None:
                found = []
                break
            found.append((level, where))
        if found:
            level, where = found[0]
            text, left = regressor.expression.text, regressor.equation.left
            message = (
                f"'{text}' varies inside {where[0]}, so it cannot stand in the equation of '{left}', which is of level "
                f"'{level}': write it in the equation of level 1, or take its mean"
            )
            regressor.equation.fail(message, text, DesignError, column=text, group=where[1])
