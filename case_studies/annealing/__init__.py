"""Learned score networks taken to other temperatures, with exact truth beside them."""
