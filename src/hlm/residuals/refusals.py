"""What takes the level-1 errors to be independent, or of one variance, is refused where they are not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hlm.errors import DesignError

if TYPE_CHECKING:
    from hlm.fit import Fit


def independent_errors(fit: Fit, what: str) -> None:
    """Refuse what is right only for independent level-1 errors of variance σ²/w.

    Raises
    ------
    DesignError
        If the fit has a residual structure, saying which.
    """
    if fit._problem.residual is not None:
        raise DesignError(
            f"{what} takes the level-1 errors to be independent, of variance σ²/w; those of this fit have a structure "
            f"({fit._problem.residual.pattern.describe()}): fit the model without residual="
        )


def one_variance(fit: Fit, what: str) -> None:
    """Refuse what is right only where all level-1 errors have the variance σ²/w, correlated or not.

    Raises
    ------
    DesignError
        If they have not, saying what they have.
    """
    residual = fit._problem.residual
    if residual is not None and residual.pattern.heterogeneous:
        raise DesignError(
            f"{what} has one level-1 variance; those of this fit differ ({residual.pattern.describe()}): fit the model "
            "without residual=, or use variances of your choice (fit.residual.sd, fit.covariances)"
        )
