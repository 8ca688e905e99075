"""Are the kernels calibrated? Ranks of the truth among posterior draws, for every one of them."""
