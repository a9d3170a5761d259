"""Compiled kernels of hierarchical linear models: float64 and int64 arrays in, arrays out."""
