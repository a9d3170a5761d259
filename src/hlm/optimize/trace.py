"""What an optimiser returns: where it went, and where it stopped."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pandas as pd

Vector = npt.NDArray[np.float64]


@dataclass
class Trace:
    """Steps of an optimiser, in the coordinates of the engine.

    Attributes
    ----------
    method : str
    theta : list of (m,) float64
    criterion : list of float
    step : list of float
        Length of the step that led there.
    decrement : list of float
        Newton decrement there: a bound on what is still to be gained in the quadratic model; NaN for EM.
    message : str
        Why it stopped.
    hessian : (m, m) float64
        Second derivatives that were computed last: at the end, or a last small step before it; Newton's method only.
    residual : list of (r,) float64
        Parameters of the structure of the level-1 errors, if there is one.
    """

    method: str
    theta: list[Vector] = field(default_factory=list)
    criterion: list[float] = field(default_factory=list)
    step: list[float] = field(default_factory=list)
    decrement: list[float] = field(default_factory=list)
    message: str = ""
    hessian: Vector = field(default_factory=lambda: np.zeros((0, 0)))
    residual: list[Vector] = field(default_factory=list)

    def add(self, theta: Vector, criterion: float, step: float, decrement: float = np.nan) -> None:
        """Append one step."""
        self.theta.append(theta)
        self.criterion.append(criterion)
        self.step.append(step)
        self.decrement.append(decrement)

    def extend(self, other: Trace) -> None:
        """Append the steps of a continuation."""
        self.theta += other.theta
        self.criterion += other.criterion
        self.step += other.step
        self.decrement += other.decrement
        self.message = other.message

    def __len__(self) -> int:
        return len(self.criterion)

    def table(self) -> pd.DataFrame:
        """Return criterion, step and decrement of each iteration as a table."""
        frame = pd.DataFrame({"criterion": self.criterion, "step": self.step, "decrement": self.decrement})
        frame.index.name = "iteration"
        return frame
