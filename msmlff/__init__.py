"""MSMLFF: distil a pool of atomic configurations, train a multiscale force field on it, simulate with it."""

__version__ = "0.1.0"
