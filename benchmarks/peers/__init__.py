"""One file a package, all with the same three functions and no knowledge of each other.

`supports(problem)`
    Whether the package can express the model.
`prepare(problem)`
    Bring the data into the form the package takes, outside of what is timed, and return the fit as a call without
    arguments: data in memory, REML, default settings.
`result(fitted)`
    What that call returned, in this benchmark's terms.

`DISTRIBUTION` is the package's name on PyPI, `LIMITS` says in words what `supports` refuses.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING, Any, Protocol, cast

if TYPE_CHECKING:
    from problems import Problem

OURS = ("hlm", "hlm_arrays")
PEERS = ("glmm", "mixedlm_rs", "mixedlm", "lme_python", "statsmodels")
LIMIT = "normal_equations"  # not a fit: what the machine needs for the cross-products alone
IMPLEMENTATIONS = (*OURS, *PEERS, LIMIT)


@dataclass(frozen=True)
class Result:
    """Outcome of one fit: −2 × restricted log-likelihood, and what the package says about convergence."""

    criterion: float
    converged: bool | None = None


class Peer(Protocol):
    """What every module of this folder offers."""

    DISTRIBUTION: str
    LIMITS: str

    def supports(self, problem: Problem) -> bool: ...

    def prepare(self, problem: Problem) -> Callable[[], Any]: ...

    def result(self, fitted: Any) -> Result: ...


class UnavailableError(Exception):
    """The package is not installed, cannot be imported or cannot express the model; the message says which."""


def load(name: str) -> Peer:
    """Return the module of an implementation.

    Raises
    ------
    UnavailableError
        Its package is not installed or cannot be imported.
    """
    try:
        return cast("Peer", importlib.import_module(f"{__name__}.{name}"))
    except ModuleNotFoundError as error:
        if error.name == name.removesuffix("_arrays"):
            raise UnavailableError("not installed") from error
        raise UnavailableError(f"cannot be imported: {error}") from error
    except ImportError as error:
        raise UnavailableError(f"cannot be imported: {error}") from error


def prepare(peer: Peer, problem: Problem) -> Callable[[], Any]:
    """Return the fit as a call without arguments.

    Raises
    ------
    UnavailableError
        The package cannot express the model.
    """
    if not peer.supports(problem):
        raise UnavailableError(f"not supported: {peer.LIMITS}")
    return peer.prepare(problem)


def fit(peer: Peer, problem: Problem) -> Result:
    """Fit once, untimed."""
    return peer.result(prepare(peer, problem)())


def version(peer: Peer) -> str:
    try:
        return metadata.version(peer.DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return "unknown"
