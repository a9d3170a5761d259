"""Inference from a fit: information, tests and intervals of fixed effects, robust covariances, marginal means."""
