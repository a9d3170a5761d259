"""Kernel failures as an exception."""

from hlm_ext.status cimport NO_RESIDUAL, NOT_FINITE, NOT_POSITIVE, Failure


class KernelError(ArithmeticError):
    """A kernel met numbers it cannot go on with.

    Attributes
    ----------
    reason : str
        "not finite", "not positive definite" or "no residual".
    factor, level, column : int
        Position of the block at fault (factors leaves first), -1 where it does not apply.
    """

    def __init__(self, reason, factor, level, column):
        super().__init__(f"{reason} (factor {factor}, level {level}, column {column})")
        self.reason = reason
        self.factor = factor
        self.level = level
        self.column = column


cdef raise_failure(Failure failure):
    reasons = {<int> NOT_FINITE: "not finite", <int> NOT_POSITIVE: "not positive definite",
               <int> NO_RESIDUAL: "no residual"}
    raise KernelError(reasons[<int> failure.status], failure.factor, failure.level, failure.column)
