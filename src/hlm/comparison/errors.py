"""Whether a structure of the level-1 errors lies within another one."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hlm.covariance import Matrix
from hlm.residuals.exchangeable import Exchangeable
from hlm.residuals.pattern import Correlation, Pattern
from hlm.residuals.scaled import Scaled
from hlm.residuals.serial import Serial
from hlm.residuals.unrestricted import Unrestricted
from hlm.residuals.variances import LogVariance

Places = npt.NDArray[np.intp]

# Of the length of a column, or of a distance, what may be left beside a combination of others.
CONTAINED = 1e-8


def contained(small: Pattern | None, large: Pattern | None) -> bool:
    """Return whether every covariance of the smaller structure is one of the larger structure; None: σ²W⁻¹.

    Correlations lie in each other only if they are the same function of the same groups, or if the larger one is any
    covariance over occasions of which the smaller one is a function.
    """
    if small is None or small is large:
        return True
    if large is None:
        return False
    (small_correlation, small_variance), (correlation, variance) = _parts(small), _parts(large)
    if isinstance(correlation, Unrestricted):
        return _over_occasions(small_correlation, small_variance, correlation)
    alike = small_correlation is None or _same(small_correlation, correlation)
    return alike and (small_variance is None or (variance is not None and _spans(variance, small_variance)))


def on_the_boundary(small: Pattern | None, large: Pattern | None) -> bool:
    """Return whether the smaller structure, which lies in the larger one, is at the end of a parameter's range.

    So are independent errors among those whose correlation falls in continuous time, ρ ≥ 0.
    """
    return large is not None and large.boundary and (small is None or not small.correlated)


def _parts(pattern: Pattern) -> tuple[Correlation | Unrestricted | None, LogVariance | None]:
    if isinstance(pattern, Scaled):
        return pattern.correlation, pattern.variance
    if isinstance(pattern, LogVariance):
        return None, pattern
    assert isinstance(pattern, Correlation | Unrestricted)
    return pattern, None


def _same(one: Pattern, other: Pattern | None) -> bool:
    """Whether two correlations are the same function of the same groups."""
    if isinstance(one, Serial) and isinstance(other, Serial):
        return (
            np.array_equal(one.order, other.order)
            and np.array_equal(one.new, other.new)
            and np.array_equal(one.distances, other.distances)
            and np.array_equal(one.distance, other.distance)
        )
    if isinstance(one, Exchangeable) and isinstance(other, Exchangeable):
        return np.array_equal(one.codes, other.codes)
    return False


def _spans(large: LogVariance, small: LogVariance) -> bool:
    """Whether the log variances of the smaller structure are combinations of a constant and those of the larger one."""
    X = np.column_stack([np.ones(len(large.kind)), large.log_sd_slopes()])
    X = X / np.sqrt((X * X).sum(axis=0))
    wanted = small.log_sd_slopes()
    left = wanted - X @ np.linalg.lstsq(X, wanted, rcond=None)[0]
    return bool(((left * left).sum(axis=0) <= CONTAINED**2 * (wanted * wanted).sum(axis=0)).all())


def _over_occasions(correlation: Pattern | None, variance: LogVariance | None, large: Unrestricted) -> bool:
    """Whether a structure is a function of the occasions of an unstructured covariance, in its groups."""
    if isinstance(correlation, Unrestricted):
        return np.array_equal(correlation.place, large.place)
    occasion = large.occasion
    if variance is not None:
        slopes = variance.log_sd_slopes()
        first = np.zeros(large.place.shape[1], dtype=np.intp)
        first[occasion] = np.arange(len(occasion))
        if not np.array_equal(slopes, slopes[first][occasion]):
            return False
    if isinstance(correlation, Exchangeable):
        return _same_groups(correlation.codes, large.codes)
    if isinstance(correlation, Serial):
        return _same_groups(correlation.codes, large.codes) and _one_distance(_times(correlation), large)
    return True


def _same_groups(one: Places, other: Places) -> bool:
    pairs = len(np.unique(one * (int(other.max()) + 1) + other))
    return pairs == len(np.unique(one)) == len(np.unique(other))


def _times(pattern: Serial) -> Matrix:
    """Time of each row since the first one of its group (n,)."""
    total = np.cumsum(np.where(pattern.new, 0.0, pattern.distances[np.maximum(pattern.distance, 0)]))
    times = np.empty(len(total))
    times[pattern.order] = total - total[pattern.new][pattern.codes[pattern.order]]
    return times


def _one_distance(times: Matrix, large: Unrestricted) -> bool:
    """Whether two occasions are equally far from each other in every group that has both."""
    at = np.where(large.place >= 0, times[large.place], np.nan)
    for t in range(1, at.shape[1]):
        apart = np.abs(at[:, t : t + 1] - at[:, :t])
        seen = ~np.isnan(apart)
        low = np.where(seen, apart, np.inf).min(axis=0)
        high = np.where(seen, apart, -np.inf).max(axis=0)
        if (high - low > CONTAINED * high).any():
            return False
    return True
