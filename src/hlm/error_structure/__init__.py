"""The error structure made visible: variance as a function of x, standard errors with and without it, poolings."""
