"""Fixtures that tests of several rooms use."""

import pandas as pd
import pytest

import hlm


@pytest.fixture(scope="session")
def hsb() -> pd.DataFrame:
    """Pupils and schools of High School & Beyond, joined; not to be changed."""
    return hlm.datasets.load("hsb")
