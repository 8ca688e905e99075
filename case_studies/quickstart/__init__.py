"""Quickstart: a real digit behind a blur and a screen, with unknown noise."""
