"""Comparison of models: likelihood-ratio tests that know their null distribution, and what they refuse."""
