"""Samplers that run over noise levels, as pure functions on a `scoreppl.target.Target`."""
