"""Priors whose score, density and draws are known exactly at every noise level."""

from scoreppl.analytic.gaussian_mixture import GaussianMixture

__all__ = ["GaussianMixture"]
