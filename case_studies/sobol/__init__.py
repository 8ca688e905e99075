"""Sobol' indices, moments and tails from one sample."""
