"""Optimisers: each takes a Criterion and returns θ with its trace."""
