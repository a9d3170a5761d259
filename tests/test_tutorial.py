"""The tutorial does what it says."""

import doctest
from pathlib import Path

import pytest

TUTORIAL = Path(__file__).parent.parent / "docs" / "tutorial.md"


@pytest.mark.skipif(not TUTORIAL.exists(), reason="tests of an installed package: the documents are not there")
def test_the_tutorial_runs() -> None:
    options = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    result = doctest.testfile(str(TUTORIAL), module_relative=False, optionflags=options, encoding="utf-8")
    assert result.failed == 0
    assert result.attempted > 15
