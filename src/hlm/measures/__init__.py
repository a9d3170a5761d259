"""Measures of a fit: information criteria, explained variance, intraclass correlations."""
