"""The documents do what they say."""

import doctest
from pathlib import Path

import pytest

DOCUMENTS = Path(__file__).parent.parent / "docs"


@pytest.mark.skipif(not DOCUMENTS.exists(), reason="tests of an installed package: the documents are not there")
@pytest.mark.parametrize("name", ["tutorial", "inference", "variances"])
def test_a_document_runs(name: str) -> None:
    options = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    path = str(DOCUMENTS / f"{name}.md")
    result = doctest.testfile(path, module_relative=False, optionflags=options, encoding="utf-8")
    assert result.failed == 0
    assert result.attempted > 15
