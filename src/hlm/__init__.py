"""Hierarchical linear models (linear mixed models), exact and fast.

>>> import hlm
>>> data = hlm.datasets.load("hsb")
>>> fit = hlm.Model("mathach ~ cses * (meanses + sector) + (cses | school)", data).fit()
>>> fit.params["cses"].round(3)
np.float64(2.939)
"""

from hlm import cases, datasets, residuals
from hlm.bootstrap import Bootstrap
from hlm.certificate import Certificate
from hlm.comparison.compare import Comparison, compare
from hlm.errors import (
    DataError,
    DataTypeError,
    DegenerateError,
    DesignError,
    FormulaError,
    HLMError,
    NumericalError,
    RankDeficientWarning,
)
from hlm.fit import Fit
from hlm.model import Model
from hlm.specification.arrays import Random
from hlm.specification.equations import Disturbance, Effect, Equation
from hlm.variance.between import Between
from hlm.variance.structures import Structure

__version__ = "0.1.0"

__all__ = [
    "Between",
    "Bootstrap",
    "Certificate",
    "Comparison",
    "DataError",
    "DataTypeError",
    "DegenerateError",
    "DesignError",
    "Disturbance",
    "Effect",
    "Equation",
    "Fit",
    "FormulaError",
    "HLMError",
    "Model",
    "NumericalError",
    "Random",
    "RankDeficientWarning",
    "Structure",
    "cases",
    "compare",
    "datasets",
    "residuals",
]
