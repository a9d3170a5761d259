"""Variances that are more than free: structures of T, known values, constraints."""
