"""The two portfolios, and their losses as functions of a network's events."""

import numpy as np

from case_studies.portfolio_tail.network import FOLDER
from scoreppl.network_file import read_card

# Shares of wealth in each stock. The second goes long the first ten by name and short the others.
PORTFOLIOS = {
    "equal weights": np.full(20, 1 / 20),
    "long-short": np.repeat([0.1, -0.1], 10),
}


def unit(name: str) -> np.ndarray:
    """Return the return that one unit of a network's event stands for, by stock.

    That of ``"scaled"`` changes from day to day; its card has that of the first test day.
    """
    return np.array(read_card(FOLDER / f"{name}.safetensors")["unit"])


def loss_slopes(name: str, holdings: np.ndarray) -> np.ndarray:
    """Return b in a portfolio's loss b x, in per cent of wealth, of an event x."""
    return -100 * holdings * unit(name)
