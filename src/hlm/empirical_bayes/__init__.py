"""Empirical Bayes: coefficients of groups, their own estimates, reliabilities, residual tables, new groups, ranks."""
