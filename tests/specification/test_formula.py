"""The parser of formulas: the tree it makes, and the place it points at where it makes none."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hlm.errors import DataTypeError, FormulaError
from hlm.specification.formula import Formula, Terms, parse


def labels(terms: Terms) -> list[str]:
    return ["1" if terms.intercept else "0", *(":".join(e.text for e in term) for term in terms.terms)]


def fixed(right: str) -> list[str]:
    return labels(parse(f"y ~ {right}").fixed)


def random(right: str) -> list[tuple[str, str]]:
    return [(" ".join(labels(term.effects)), term.name) for term in parse(f"y ~ {right}").random]


@pytest.mark.parametrize(
    ("right", "expected"),
    [
        ("1", "1"),
        ("0 + x", "0 x"),
        ("x - 1", "0 x"),
        ("-1 + x", "0 x"),
        ("x + -1", "0 x"),
        ("0 + x + 1", "1 x"),
        ("x + x", "1 x"),
        ("a + b + b:a", "1 a b a:b"),
        ("b:a + a", "1 a b:a"),
        ("a*b*c", "1 a b c a:b a:c b:c a:b:c"),
        ("a*b*c - a:b:c", "1 a b c a:b a:c b:c"),
        ("a*(b + c)", "1 a b c a:b a:c"),
        ("(a + b + c)^2", "1 a b c a:b a:c b:c"),
        ("(a + b + c)**2", "1 a b c a:b a:c b:c"),
        ("(a + b)^9", "1 a b a:b"),
        ("x^2", "1 x"),
        ("(a + b)^" + "9" * 5000, "1 a b a:b"),
        ("a/b", "1 a a:b"),
        ("(a + b)/c", "1 a b a:b:c"),
        ("a/b/c", "1 a a:b a:b:c"),
        ("a %in% b", "1 a:b"),
        ("a + b - (1 + b)", "0 a"),
        ("x:z + z", "1 z x:z"),
        ("((a))", "1 a"),
        ("a:a", "1 a"),
    ],
)
def test_terms_expand_and_are_ordered_as_in_r(right: str, expected: str) -> None:
    assert fixed(right) == expected.split()


@pytest.mark.parametrize(
    ("right", "expected"),
    [
        ("(1|g)", [("1", "g")]),
        ("(x | g)", [("1 x", "g")]),
        ("(0 + x | g)", [("0 x", "g")]),
        ("(x || g)", [("1", "g"), ("0 x", "g")]),
        ("(0 + x || g)", [("0 x", "g")]),
        ("(x*z || g)", [("1", "g"), ("0 x", "g"), ("0 z", "g"), ("0 x:z", "g")]),
        ("(1 | a/b/c)", [("1", "a"), ("1", "a:b"), ("1", "a:b:c")]),
        ("(1 | a/b/c/d/e/f)", [("1", "abcdef"[: k + 1].replace("", ":")[1:-1]) for k in range(6)]),
        ("(x || a/b)", [("1", "a"), ("0 x", "a"), ("1", "a:b"), ("0 x", "a:b")]),
        ("(1 | a:b)", [("1", "a:b")]),
        ("(1 | a + b)", [("1", "a"), ("1", "b")]),
        ("(1 | a*b)", [("1", "a"), ("1", "b"), ("1", "a:b")]),
        ("(1 | factor(g))", [("1", "g")]),
        ("((1 | g)) + x", [("1", "g")]),
        ("(1 | g) + (0 + x | g) + (1 | h)", [("1", "g"), ("0 x", "g"), ("1", "h")]),
    ],
)
def test_random_terms_expand_as_in_lme4(right: str, expected: list[tuple[str, str]]) -> None:
    assert random(right) == expected


def test_a_random_term_keeps_how_it_was_written() -> None:
    formula = parse("y ~ x + ( x  ||  g )")
    assert [term.correlated for term in formula.random] == [False, False]
    assert {term.text for term in formula.random} == {"( x || g )"}
    assert formula.random[0].position == 8
    assert parse("y ~ (x | g)").random[0].correlated


def test_formula_collects_response_offsets_and_columns_in_order_of_use() -> None:
    formula = parse("log(y) ~ offset(0.25 * w) + sin(2*pi*z) + x + (t | g:h)")
    assert formula.response.text == "log(y)"
    assert formula.response.columns == ("y",)
    assert not formula.response.is_column
    assert [offset.text for offset in formula.offsets] == ["0.25 * w"]
    assert formula.columns == ("y", "w", "z", "x", "t", "g", "h")
    assert labels(formula.fixed) == ["1", "sin(2 * pi * z)", "x"]


def test_pi_is_a_column_where_it_stands_alone_or_quoted() -> None:
    assert parse("y ~ pi").columns == ("y", "pi")
    assert parse("y ~ I(`pi` * x)").columns == ("y", "pi", "x")
    assert parse("y ~ I(pi * x)").columns == ("y", "x")


@pytest.mark.parametrize(
    ("written", "text"),
    [
        ("I(x**2)", "I(x**2)"),
        ("I( -x ^ 2/3 )", "I(-x^2 / 3)"),
        ("I((a+b)*c)", "I((a + b) * c)"),
        ("I(x^-1)", "I(x^-1)"),
        ("poly( x,2 , raw=TRUE)", "poly(x, 2, raw = TRUE)"),
        ("bs(x, knots=c(1,2))", "bs(x, knots = c(1, 2))"),
        ("C(a, Treatment( 'b' ))", "C(a, Treatment('b'))"),
        ("C(a, contr.treatment(3, base=2))", "C(a, contr.treatment(3, base = 2))"),
        ("log(`my x`)", "log(`my x`)"),
        ("log(`x`)", "log(x)"),
        ("scale(log(x), center = FALSE)", "scale(log(x), center = FALSE)"),
    ],
)
def test_text_has_the_spacing_of_r(written: str, text: str) -> None:
    assert fixed(written) == ["1", text]


@pytest.mark.parametrize(
    "name", ["class", "lambda", "log", "C", "I", "x.1", "_z", ".hidden", "été", "größe", "变量", "T"]
)
def test_any_name_without_parenthesis_is_a_column(name: str) -> None:
    assert parse(f"y ~ {name} + ({name} | g)").columns == ("y", name, "g")
    assert parse(f"{name} ~ 1").response.is_column


def test_backticks_hold_any_name() -> None:
    formula = parse("`the y` ~ `my x` + `a:b` + (1 | `g g`)")
    assert formula.columns == ("the y", "my x", "a:b", "g g")
    assert formula.response.text == "the y"
    # a column whose name looks like a call is not that call
    column, call = (term[0] for term in parse("y ~ `log(x)` + log(x)").fixed.terms)
    assert column != call


@pytest.mark.parametrize(
    ("text", "position", "part"),
    [
        ("", 0, "empty formula"),
        ("  \n", 0, "empty formula"),
        ("y", 1, "~"),
        ("~ x", 0, "no response"),
        ("y ~", 3, "no terms"),
        ("y ~ x ~ z", 6, "~"),
        ("y + ~ x", 4, "expected"),
        ("1 ~ x", 0, "no column"),
        ("y z ~ x", 2, "expected '~'"),
        ("poly(y, 2) ~ x", 0, "poly()"),
        ("y ~ (x", 4, "never closed"),
        ("y ~ log((x)", 7, "never closed"),
        ("y ~ x)", 5, "unbalanced"),
        ("y ~ x ++ z", 7, "unexpected operator '+'"),
        ("y ~ x + * z", 8, "unexpected operator '*'"),
        ("y ~ x +", 7, "expected a term"),
        ("y ~ x z", 6, "expected an operator"),
        ("y ~ x\x00", 5, "'\\x00'"),
        ("y ~ x; z", 5, "';'"),
        ("y ~ x[1]", 5, "'['"),
        ("y ~ `x", 4, "unclosed `"),
        ("y ~ 'x'", 4, "expected a term"),
        ("y ~ 2 + x", 4, "number 2"),
        ("y ~ x^z", 6, "power"),
        ("y ~ x^0", 6, "power"),
        ("y ~ .", 4, "list the columns"),
        ("y ~ x + 1|g", 9, "parentheses"),
        ("y ~ x + (1|)", 11, "grouping column after '|' in (1|)"),
        ("y ~ (|g)", 5, "no effects"),
        ("y ~ (x|1)", 7, "no grouping column"),
        ("y ~ (x|log(g))", 7, "must be a column"),
        ("y ~ (1|g|h)", 8, "expected ')'"),
        ("y ~ ((1|g)|h)", 5, "inside another"),
        ("y ~ (0|g)", 4, "(0|g) has no columns"),
        ("y ~ x:(1|g)", 6, "only be added"),
        ("y ~ x - (1|g)", 8, "subtracted"),
        ("y ~ x*offset(z)", 6, "only be added"),
        ("y ~ (offset(x)|g)", 5, "offset"),
        ("y ~ (1|g) + x + (1|g)", 16, "twice"),
        ("y ~ (1|a:b) + (1|b:a)", 14, "twice"),
        ("y ~ (1|g) + (x||g)", 12, "twice"),
        ("y ~ y + x", 4, "response 'y' also"),
        ("y ~ x + (y|g)", 9, "response 'y' also"),
        ("y ~ I(y^2)", 4, "response 'y' also"),
        ("log(y) ~ log(y)", 9, "response 'log(y)' also"),
        ("y ~ (1|y)", 4, "response 'y'"),
        ("y ~ __import__('os').system('x')", 4, "unknown function '__import__'"),
        ("y ~ x + exec(x)", 8, "allowed are"),
        ("y ~ x.mean()", 4, "x.mean"),
        ("y ~ I(poly(x, 2))", 6, "poly()"),
        ("y ~ log()", 8, "needs an argument"),
        ("y ~ log(x, z)", 11, "constant"),
        ("y ~ log(x, base='2')", 16, "'base' must be a number"),
        ("y ~ log(x, foo=2)", 11, "no option 'foo'"),
        ("y ~ log(x, 2, 3)", 14, "too many"),
        ("y ~ log(x, 2, base=3)", 14, "twice"),
        ("y ~ poly(x, 2, raw=3)", 19, "TRUE or FALSE"),
        ("y ~ C(x, foo)", 9, "unknown coding"),
        ("y ~ C(log(x))", 4, "takes a column"),
        ("y ~ I(x:z)", 7, "expected ')'"),
        ("y ~ I(2)", 4, "names no column"),
        ("y ~ bs(x, knots=c(1, c(2)))", 21, "c()"),
    ],
)
def test_malformed_formulas_point_at_the_place(text: str, position: int, part: str) -> None:
    with pytest.raises(FormulaError) as caught:
        parse(text)
    message = str(caught.value)
    assert caught.value.position == position
    assert part in message
    if text.strip():
        assert message.splitlines()[-1].index("^") == 4 + position


@pytest.mark.parametrize("value", [3, None, b"y ~ x", ["y ~ x"]])
def test_a_formula_must_be_a_string(value: object) -> None:
    with pytest.raises(DataTypeError, match=f"formula must be a string, got {type(value).__name__}"):
        parse(value)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text",
    [
        "y ~ " + "(" * 500 + "x" + ")" * 500,
        "y ~ I(" + "(" * 500 + "x" + ")" * 500 + ")",
        "y ~ " + "log(" * 500 + "x" + ")" * 500,
        "(" * 500 + "y" + ")" * 500 + " ~ x",
        "y ~ I(" + "-" * 500 + "x)",
        "y ~ I(" + "^".join("x" * 500) + ")",
        "y ~ I(" + "+".join("x" * 5000) + ")",
        "y ~ " + "*".join(f"x{k}" for k in range(60)),
        "y ~ (" + "+".join(f"x{k}" for k in range(60)) + ")^60",
        "y ~ (x | " + "(" * 500 + "g" + ")" * 500 + ")",
    ],
)
def test_depth_and_explosions_are_refused(text: str) -> None:
    with pytest.raises(FormulaError):
        parse(text)


def test_long_sums_are_read() -> None:
    formula = parse("y ~ " + " + ".join(f"x{k}" for k in range(3000)) + " + (1 | g)")
    assert len(formula.fixed.terms) == 3000


ALPHABET = st.sampled_from(
    [*"xyzg01().|~+-*/^:,=`' \n\x00é", "||", "**", "%in%", "log(", "I(", "offset(", "poly(", "C("]
)


@given(
    st.one_of(st.text(), st.lists(ALPHABET).map("".join), st.lists(ALPHABET).map(lambda parts: "y ~ " + "".join(parts)))
)
def test_any_text_gives_a_formula_or_a_formula_error(text: str) -> None:
    position: int | None = 0
    try:
        formula = parse(text)
    except FormulaError as error:
        position = error.position
    else:
        assert isinstance(formula, Formula)
        assert formula.columns
    assert position is not None
    assert 0 <= position <= len(text)


names = st.sampled_from(["a", "b", "c", "d"])
sums = st.recursive(
    names,
    lambda inner: st.tuples(inner, st.sampled_from(["+", ":", "*", "/", "-"]), inner).map(lambda t: f"({''.join(t)})"),
)


@given(sums)
def test_expanded_terms_read_back_as_themselves(right: str) -> None:
    terms = parse(f"y ~ a + b + c + d + {right}").fixed
    again = parse("y ~ " + " + ".join(labels(terms)) + " + 1").fixed
    assert again == terms


def test_a_long_formula_is_shown_around_the_mistake() -> None:
    text = "y ~ " + " + ".join(f"column{k}" for k in range(2000)) + " + * z"
    with pytest.raises(FormulaError) as caught:
        parse(text)
    message, line, marker = str(caught.value).split("\n")
    assert message.startswith("unexpected operator '*'")
    assert len(line) < 250
    assert line[marker.index("^")] == "*"
    assert text[caught.value.position] == "*"
