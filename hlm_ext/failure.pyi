class KernelError(ArithmeticError):
    reason: str
    factor: int
    level: int
    column: int
