"""Value, derivatives and moments of the compiled engine against dense algebra and 40-digit arithmetic."""

import mpmath
import numpy as np
import pytest

from hlm_ext import partition
from hlm_ext.criterion import Criterion, KernelError
from hlm_ext.forest import Forest

from ..dense import EVERY, Case, make_case, structure

every_structure = pytest.mark.parametrize("name", EVERY)
both = pytest.mark.parametrize("reml", [True, False], ids=["REML", "ML"])


def some_theta(case: Case, seed: int = 1) -> np.ndarray:
    m = sum(q * (q + 1) // 2 for q in case.widths)
    return np.random.default_rng(seed).normal(size=m) * 0.7


@every_structure
@both
def test_value_is_that_of_dense_algebra(name: str, reml: bool) -> None:
    case = structure(name)
    theta = some_theta(case)
    expected = case.criterion(theta, reml)
    # rounding of dense n × n inverses, a few hundred rows
    assert case.kernel(reml).value(theta) == pytest.approx(expected, abs=1e-9 * max(1, abs(expected)))


@every_structure
@both
def test_gradient_and_hessian_are_derivatives(name: str, reml: bool) -> None:
    case = structure(name)
    theta = some_theta(case)
    kernel = case.kernel(reml)
    kernel.value(theta)
    gradient, hessian = kernel.derivatives()
    np.testing.assert_allclose(kernel.gradient(), gradient, rtol=1e-12, atol=1e-12)
    h = 1e-5
    # central differences of the dense value: truncation h², rounding 1e-12 / h
    numeric = [
        (case.criterion(theta + h * e, reml) - case.criterion(theta - h * e, reml)) / (2 * h)
        for e in np.eye(len(theta))
    ]
    np.testing.assert_allclose(gradient, numeric, rtol=2e-6, atol=2e-6)

    def slope(at: np.ndarray) -> np.ndarray:
        kernel.value(at)
        return np.asarray(kernel.gradient())

    numeric = np.array([(slope(theta + h * e) - slope(theta - h * e)) / (2 * h) for e in np.eye(len(theta))])
    np.testing.assert_allclose(hessian, numeric, rtol=1e-6, atol=1e-7 * np.abs(hessian).max())


@every_structure
@both
def test_average_information_is_the_mean_of_observed_and_expected(name: str, reml: bool) -> None:
    """Without the profile terms: average = (observed + expected) / 2 for the trace and data parts."""
    case = structure(name)
    kernel = case.kernel(reml)
    kernel.value(some_theta(case))
    traces, forms, products = kernel.quadratic_forms()
    dense = dense_products(case, np.asarray(kernel.theta), reml)
    np.testing.assert_allclose(products, dense, rtol=1e-9, atol=1e-9 * np.abs(dense).max())
    observed, average, expected = (kernel.derivatives(kind)[1] for kind in ("observed", "average", "expected"))
    # observed + expected - 2 average has only the profile terms of the two in it
    s2, freedom = kernel.sigma2, kernel.freedom
    jacobian = theta_to_entries(case, np.asarray(kernel.theta))
    rest = np.outer(forms, forms) / (freedom * s2**2) - np.outer(traces, traces) / freedom
    np.testing.assert_allclose(observed + expected - 2 * average, jacobian.T @ rest @ jacobian, rtol=1e-8, atol=1e-8)


def directions(case: Case) -> list[np.ndarray]:
    """V_a of each entry of each D, leaves first, column by column."""
    out = []
    for Z, codes in zip(case.Z, case.codes, strict=True):
        same = codes[:, None] == codes[None, :]
        for j in range(Z.shape[1]):
            for i in range(j, Z.shape[1]):
                V = np.outer(Z[:, i], Z[:, j]) * same
                out.append(V if i == j else V + V.T)
    return out


def dense_products(case: Case, theta: np.ndarray, reml: bool) -> np.ndarray:
    P = np.linalg.inv(case.covariance(theta))
    if reml and case.X.shape[1]:
        PX = P @ case.X
        P = P - PX @ np.linalg.solve(case.X.T @ PX, PX.T)
    PV = [P @ V for V in directions(case)]
    return np.array([[np.sum(a * b.T) for b in PV] for a in PV])


def theta_to_entries(case: Case, theta: np.ndarray) -> np.ndarray:
    """dD/dθ, entries of all D stacked, by differences (exact for a quadratic)."""

    def entries(at: np.ndarray) -> np.ndarray:
        return np.concatenate(
            [(L @ L.T)[np.triu_indices(len(L))[1], np.triu_indices(len(L))[0]] for L in case.factors(at)]
        )

    return np.column_stack([(entries(theta + e) - entries(theta - e)) / 2 for e in np.eye(len(theta))])


@every_structure
@pytest.mark.parametrize("beta_known", [True, False])
def test_modes_and_covariances_are_those_of_dense_algebra(name: str, beta_known: bool) -> None:
    case = structure(name)
    theta = some_theta(case)
    kernel = case.kernel(True)
    kernel.value(theta)
    modes, covariances = kernel.effects(True, beta_known)
    expected_modes, expected_covariances = case.posterior(theta, beta_known)
    for got, want in zip(modes + covariances, expected_modes + expected_covariances, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-8, atol=1e-9)


@both
def test_value_gradient_and_hessian_against_40_digits(reml: bool) -> None:
    case = make_case([2, 1], 2, seed=5, tops=3, most=3)
    theta = some_theta(case, 3)
    kernel = case.kernel(reml)
    value = kernel.value(theta)
    gradient, hessian = kernel.derivatives()
    with mpmath.workdps(40):
        n, p = case.X.shape
        X, y = mpmath.matrix(case.X.tolist()), mpmath.matrix(case.y.tolist())

        def exact(*at: mpmath.mpf) -> mpmath.mpf:
            a, b, c, d = at
            L = [[a, mpmath.mpf(0)], [b, c]]
            V = mpmath.eye(n)
            for i in range(n):
                for j in range(n):
                    if case.codes[0][i] == case.codes[0][j]:
                        for s in range(2):
                            zi = sum(case.Z[0][i, r] * L[r][s] for r in range(2))
                            zj = sum(case.Z[0][j, r] * L[r][s] for r in range(2))
                            V[i, j] += zi * zj
                    if case.codes[1][i] == case.codes[1][j]:
                        V[i, j] += d * d
            inverse = V**-1
            S = X.T * inverse * X
            residual = y - X * (S**-1 * (X.T * inverse * y))
            r2 = (residual.T * inverse * residual)[0]
            freedom = n - p if reml else n
            return (
                mpmath.log(mpmath.det(V))
                + (mpmath.log(mpmath.det(S)) if reml else 0)
                + freedom * (1 + mpmath.log(2 * mpmath.pi * r2 / freedom))
            )

        at = [mpmath.mpf(float(t)) for t in theta]
        h = mpmath.mpf(10) ** -9

        def moved(*steps: tuple[int, int]) -> mpmath.mpf:
            point = list(at)
            for s, sign in steps:
                point[s] += sign * h
            return exact(*point)

        base = moved()
        assert value == pytest.approx(float(base), abs=1e-12 * abs(float(base)))
        for s in range(4):
            slope = (moved((s, 1)) - moved((s, -1))) / (2 * h)
            assert gradient[s] == pytest.approx(float(slope), rel=1e-11, abs=1e-11)
            for t in range(s + 1):
                if s == t:
                    curve = (moved((s, 1)) - 2 * base + moved((s, -1))) / h**2
                else:
                    curve = (
                        moved((s, 1), (t, 1))
                        - moved((s, 1), (t, -1))
                        - moved((s, -1), (t, 1))
                        + moved((s, -1), (t, -1))
                    ) / (4 * h * h)
                assert hessian[s, t] == pytest.approx(float(curve), rel=1e-10, abs=1e-10)


@pytest.mark.parametrize("name", ["two nested", "several tiles", "two nested, one across"])
def test_bits_do_not_depend_on_threads(name: str) -> None:
    case = make_case([2, 1], 3, seed=2, tops=400, most=4) if name == "two nested" else structure(name)
    theta = some_theta(case)
    before = partition.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3, 7):
            partition.set_num_threads(threads)
            kernel = case.kernel(True)
            value = kernel.value(theta)
            gradient, hessian = kernel.derivatives()
            modes, covariances = kernel.effects(True)
            results.append([np.array(value), gradient, hessian, *modes, *covariances])
    finally:
        partition.set_num_threads(before)
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


def test_many_chunks_against_dense_algebra() -> None:
    """Enough levels for several chunks (one holds at least 256): their partial results add up."""
    case = make_case([1, 1], 2, seed=4, tops=200, most=4)
    assert sum(codes.max() + 1 for codes in case.codes) > 2 * 256 + 50
    assert len(case.y) < 3000
    theta = some_theta(case)
    kernel = case.kernel(True)
    assert kernel.value(theta) == pytest.approx(case.criterion(theta, True), rel=1e-11)
    modes, _ = kernel.effects()
    for got, want in zip(modes, case.posterior(theta, beta_known=False)[0], strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-8, atol=1e-9)


def test_a_response_without_residual_is_a_failure() -> None:
    case = structure("slope")
    case.y[:] = case.X @ np.array([1.0, 2.0, 3.0])
    with pytest.raises(KernelError) as failure:
        case.kernel(True).value(some_theta(case) * 0)
    # the sum of squares left is rounding: negative or tiny
    assert failure.value.reason in ("no residual", "not positive definite")


def test_numbers_that_are_not_finite_name_the_level() -> None:
    case = structure("two nested")
    case.Z[0][case.codes[0] == 3] = np.nan
    with pytest.raises(KernelError) as failure:
        case.kernel(True).value(some_theta(case))
    assert (failure.value.reason, failure.value.factor, failure.value.level) == ("not finite", 0, 3)


def test_a_failed_value_fails_again() -> None:
    """Without θ every evaluation is at the same point: the one before must not stand in for one that failed."""
    kernel = Criterion(
        Forest([], [], np.zeros((2, 2))), 5, True, np.zeros(0), np.zeros((0, 2), dtype=np.intp), np.zeros(0)
    )
    for _ in range(2):
        with pytest.raises(KernelError):
            kernel.value(np.zeros(0))
