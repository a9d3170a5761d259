"""The doors into a model: formulas, their columns, and arrays."""
