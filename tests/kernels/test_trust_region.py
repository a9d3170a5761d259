"""The trust-region step, also where rounding leaves nothing of the gradient or of the smallest gap."""

import numpy as np
import pytest

from hlm_ext.trust_region import trust_region_step


def model_gain(g: np.ndarray, H: np.ndarray, step: np.ndarray) -> float:
    return -float(g @ step + 0.5 * step @ H @ step)


@pytest.mark.parametrize("power", [-300, -100, -20, -16, -12, -6, 0, 2])
def test_step_within_the_radius_gains_what_it_can(power: int) -> None:
    """At least the gains of the steepest descent and of the lowest eigenvector, each to the boundary or its minimum."""
    rng = np.random.default_rng(0)
    for _ in range(300):
        m = int(rng.integers(1, 5))
        A = rng.normal(size=(m, m))
        H, g = A + A.T, rng.normal(size=m) * 10.0**power
        radius = 10.0 ** rng.uniform(-3, 6)
        step, gain, *_ = trust_region_step(g, H, radius)
        assert np.linalg.norm(step) <= 1.002 * radius  # the length is found to 1e-3
        values, vectors = np.linalg.eigh(H)
        for direction in (-g / np.abs(g).max(), vectors[:, 0], -vectors[:, 0]):
            d = direction / np.linalg.norm(direction)
            slope, curvature = float(g @ d), float(d @ H @ d)
            length = min(radius, -slope / curvature) if curvature > 0 else radius
            expected = model_gain(g, H, max(length, 0.0) * d)
            # a step shorter by 1e-3 gains up to 2e-3 less
            assert gain >= expected - 3e-3 * abs(expected)
        assert gain == pytest.approx(
            model_gain(g, H, step), rel=1e-9, abs=1e-13 * float(np.abs(values).max()) * float(step @ step)
        )
