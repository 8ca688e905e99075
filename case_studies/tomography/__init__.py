"""Sparse-view tomography of digits, with unknown noise, beside deepinv's DPS and DiffPIR."""
