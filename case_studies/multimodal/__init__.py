"""Posteriors of several modes, sampled exactly with a network as the proposal."""
