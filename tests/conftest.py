"""Fixtures that tests of several rooms use, and how examples of properties are drawn."""

import os

import pandas as pd
import pytest
from hypothesis import settings

import hlm

# The same examples in every run: what they find is about the change that is tested. New ones are drawn every night.
settings.register_profile("same", derandomize=True)
settings.load_profile("default" if os.environ.get("HLM_NEW_EXAMPLES") else "same")


@pytest.fixture(scope="session")
def hsb() -> pd.DataFrame:
    """Pupils and schools of High School & Beyond, joined; not to be changed."""
    return hlm.datasets.load("hsb")
