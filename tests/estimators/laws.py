"""Weighted draws of a normal target from a wider proposal, with the right answers."""

import numpy as np
from scipy.stats import norm

import scoreppl as sp

MEAN = 0.5
# E[x], E[x^2] and P(x > 1.5) under N(0.5, 1).
TRUTH = np.array([MEAN, 1.0 + MEAN**2, norm.sf(1.0)])


def importance_draws(seed, size=500):
    """Draws of N(0, 1.5^2) weighted to N(0.5, 1), with the target's score, and the functions."""
    x = 1.5 * np.random.default_rng(seed).standard_normal(size)
    log_weight = norm.logpdf(x, MEAN, 1.0) - norm.logpdf(x, 0.0, 1.5)
    draws = sp.estimators.weighted_draws(
        {"x": x}, log_weight, position=x[:, None], score=(MEAN - x)[:, None]
    )
    return draws, np.stack([x, x**2, x > 1.5], axis=1)


def chain_draws(seed, correlation=0.8, size=1000):
    """Four autoregressive chains of N(0, 1), cut into 32 batches, with the score."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((4, size))
    for i in range(1, size):
        x[:, i] = correlation * x[:, i - 1] + np.sqrt(1 - correlation**2) * x[:, i]
    batch = (np.arange(4)[:, None] * 8 + np.arange(size) * 8 // size).ravel()
    x = x.ravel()
    draws = sp.estimators.weighted_draws(
        {"x": x}, cluster=batch, position=x[:, None], score=-x[:, None]
    )
    return draws._replace(chain=np.repeat(np.arange(4), size))
