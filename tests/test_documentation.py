"""What users call says what it takes."""

import inspect
import re
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

import pytest

import hlm
from hlm.documentation import documented_by


def offered() -> Iterator[tuple[str, Callable[..., Any]]]:
    """Public functions of `hlm` and of its modules, and public methods of its classes."""
    for name in hlm.__all__:
        thing = getattr(hlm, name)
        if inspect.ismodule(thing):
            yield from ((f"{name}.{key}", getattr(thing, key)) for key in thing.__all__)
        elif inspect.isclass(thing):
            for key, member in inspect.getmembers(thing):
                if not key.startswith("_") and not isinstance(member, (property, cached_property)):
                    yield f"{name}.{key}", member
        else:
            yield name, thing


def test_every_parameter_is_described() -> None:
    missing = []
    for name, thing in offered():
        if not inspect.isroutine(thing) or not str(getattr(thing, "__module__", "")).startswith("hlm"):
            continue
        text = inspect.getdoc(thing) or ""
        parameters = inspect.signature(thing).parameters.values()
        names = [p.name for p in parameters if p.name not in ("self", "cls") and p.kind != p.VAR_KEYWORD]
        _, section, entries = text.partition("Parameters\n----------\n")
        # a method of one or two parameters may say all in its first line, or where it is said
        if not text or (len(names) > 2 and not section and "see `" not in text.lower()):
            missing.append(name)
        heads = re.findall(r"^[*\w].*$", entries, re.MULTILINE)
        known = {key for head in heads for key in re.split(r", |\s:", head.replace("*", ""))}
        missing += [f"{name}: {key}" for key in names if section and key not in known]
    assert not missing


def test_a_method_has_the_documentation_of_its_function() -> None:
    def function(view: object, name: str, at: int, other: int = 0) -> None:
        """Do it.

        Parameters
        ----------
        view : object
            Is left out,
            with all of it.
        name, at : str
            Two.
        other : int

        Raises
        ------
        ValueError
        """

    @documented_by(function, more="method : str\n    More.", name="factor")
    def method(self: object, factor: str, at: int, other: int = 0, method: str = "") -> None:
        """Do."""

    entries = "factor, at : str\n    Two.\nother : int\nmethod : str\n    More."
    assert method.__doc__ == f"Do it.\n\nParameters\n----------\n{entries}\n\nRaises\n------\nValueError"

    @documented_by(lambda fit: fit)
    def undocumented(self: object) -> None:
        """Keep this."""

    assert undocumented.__doc__ == "Keep this."

    def alone(fit: object) -> None:
        """Return it.

        Parameters
        ----------
        fit : object

        Returns
        -------
        object
        """

    assert documented_by(alone)(lambda self: None).__doc__ == "Return it.\n\nReturns\n-------\nobject"


@pytest.mark.parametrize("name", ["ranks", "marginal_means", "score_groups", "variance_table"])
def test_methods_of_a_fit_say_all(name: str) -> None:
    text = inspect.getdoc(getattr(hlm.Fit, name)) or ""
    assert all(part in text for part in ("Parameters\n", "Returns\n", "Raises\n"))
    assert not re.search(r"^(fit|view)\b", text, re.MULTILINE)
