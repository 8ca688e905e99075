"""Flux and size of galaxies under a score network: one alone, two blended, and a real pair."""
