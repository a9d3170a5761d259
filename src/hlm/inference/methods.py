"""The ways to judge fixed effects, by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from hlm.errors import DataError, DataTypeError
from hlm.inference.containment import BetweenWithin, ByEquation
from hlm.inference.fixed import Inference, Wald
from hlm.inference.kenward_roger import KenwardRoger
from hlm.inference.robust import ClusterRobust
from hlm.inference.satterthwaite import Satterthwaite

if TYPE_CHECKING:
    from hlm.fit import Fit

ROBUST = ("CR0", "CR1", "CR2", "CR3")
METHODS: dict[str, Callable[..., Inference]] = {
    kind.name: kind for kind in (Wald, Satterthwaite, KenwardRoger, BetweenWithin, ByEquation)
}
METHODS |= {kind: partial(ClusterRobust, kind=kind) for kind in ROBUST}
OPTIONS = {"kenward-roger": ("boundary",), **dict.fromkeys(ROBUST, ("cluster", "between"))}


def inference(fit: Fit, method: str, options: dict[str, Any]) -> Inference:
    """Return the inference of that name; what it computes is computed once for each choice of options.

    Raises
    ------
    DataError
        For an unknown method, or one that the model does not have.
    DataTypeError
        For an option that the method does not have.
    """
    if method not in METHODS:
        raise DataError(f"method must be one of {', '.join(map(repr, METHODS))}, got {method!r}")
    for option in options:
        if option not in OPTIONS.get(method, ()):
            raise DataTypeError(f"'{method}' has no option '{option}'")
    key = (method, *sorted(options.items()))
    made: dict[tuple[Any, ...], tuple[type[Inference], dict[str, Any]]] = fit.__dict__.setdefault("_inferences", {})
    if key not in made:
        found = METHODS[method](fit, **options)
        made[key] = type(found), found.__dict__
        return found
    kind, computed = made[key]
    again = kind.__new__(kind)
    again.fit, again.__dict__ = fit, computed
    return again
