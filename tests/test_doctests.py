"""Examples in docstrings do what they show."""

import doctest
import importlib

import pytest


@pytest.mark.parametrize("name", ["hlm", "hlm.model", "hlm.views", "hlm.specification.equations", "hlm.datasets"])
def test_examples(name: str) -> None:
    result = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert result.failed == 0
    assert result.attempted > 0
