"""Checks of a fit: residuals, influence of groups, exogeneity, normality, and a report in plain words."""
