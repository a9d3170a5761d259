"""Structures of the level-1 errors: variances that differ, errors that are correlated within groups, and both.

Variances may differ beside crossed factors too; correlated errors need nested ones.

>>> import hlm
>>> data = hlm.datasets.load("hsb")
>>> residual = hlm.residuals.ByStratum("female")
>>> fit = hlm.Model("mathach ~ cses + (1 | school)", data, residual=residual).fit()
>>> fit.residual.sd.round(2).to_dict()
{0: 6.27, 1: 5.79}
"""

from hlm.residuals.structures import AR1, ByStratum, CompoundSymmetry, LogLinear, Residual, Unstructured

__all__ = ["AR1", "ByStratum", "CompoundSymmetry", "LogLinear", "Residual", "Unstructured"]
