"""Profile likelihood of every parameter, and intervals of variances."""
