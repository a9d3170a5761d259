"""Few groups: an optimum inside beside a lower one whose effects move together, in another direction than its own."""

import numpy as np

import hlm

ROWS = [9, 9, 6, 8, 9, 7]
W = [0.95, 0.97, 0.57, 0.07, 2.03, -0.88]
# fmt: off
X = [
    -1.27, 0.36, 0.78, 0.01, 1.09, 0.21, -1.27, -0.22, -0.3, 1.36, 1.01, 0.75, -0.24, 0.53, 0.24, 1.34, -1.01, -0.09,
    -1.15, -0.74, -0.62, -0.6, -1.83, -1.11, -0.11, 0.76, -0.25, 0.2, -1.43, -0.32, -1.58, 2.21, -0.04, -2.17, -0.7,
    -1.8, 0.41, 0.04, 0.84, 1.75, 1.69, 0.59, 1.58, 1.07, 1.39, -0.55, -1.0, -0.62,
]
Y = [
    3.28, 0.04, 1.33, 2.77, 1.16, 0.33, 2.48, 0.92, 3.44, 1.14, 0.72, 1.24, 1.96, 1.6, 1.55, 2.95, 3.99, 2.34, 2.22,
    0.55, 1.25, 0.35, 1.82, -0.78, 0.19, 0.65, 1.62, 1.08, 0.94, 0.81, 0.97, -1.62, 3.82, 4.16, 3.6, 4.66, 2.63, 3.11,
    2.53, 1.24, -0.45, -0.09, 0.23, 0.04, 1.56, 1.08, 0.06, 1.29,
]
# fmt: on


def test_the_lower_optimum_is_found() -> None:
    groups = np.repeat(np.arange(6), ROWS)
    fixed = np.column_stack([np.ones(48), np.array(W)[groups], X])
    y, values = np.array(Y), []
    fit = hlm.Model.from_arrays(y, fixed, [hlm.Random(groups, fixed[:, [0, 2]], name="g")]).fit()
    # the criterion of correlations of 1, by dense algebra on a grid of both standard deviations
    for one in np.linspace(0.3, 1.2, 19):
        for other in np.linspace(0.02, 0.6, 30):
            z = fixed[:, [0, 2]] @ [one, other]
            V = np.eye(48) + np.where(groups[:, None] == groups, np.outer(z, z), 0.0)
            inverse = np.linalg.inv(V)
            information = fixed.T @ inverse @ fixed
            left = inverse - inverse @ fixed @ np.linalg.solve(information, fixed.T @ inverse)
            terms = np.linalg.slogdet(V)[1] + np.linalg.slogdet(information)[1]
            values.append(terms + 45 * (1 + np.log(2 * np.pi * (y @ left @ y) / 45)))
    assert 0 <= min(values) - fit.criterion < 0.01
    assert fit.is_singular
    assert fit.converged
