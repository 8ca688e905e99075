r"""Daily returns of twenty stocks, and their volatilities by an exponential average.

The prices come with the package skfolio (BSD 3-clause), which says of them that they are for
testing and examples only. Nothing else in this study needs them.

.. math::
    r_t = p_t / p_{t-1} - 1, \qquad
    \sigma_{t+1}^2 = 0.94 \, \sigma_t^2 + 0.06 \, r_t^2, \qquad z_t = r_t / \sigma_t,

per stock, with the decay of RiskMetrics: sigma_t is known the evening before day t.
"""

from typing import NamedTuple

import numpy as np
from scipy.signal import lfilter

NUM_TEST_DAYS = 2_000
DECAY = 0.94
# Days that only start the average.
BURN_IN = 250
# A stock that stood still for weeks is not taken for one that cannot move.
LEAST_VOLATILITY = 0.003


class Returns(NamedTuple):
    """What is known of each day; the last `NUM_TEST_DAYS` are for tests alone.

    Attributes
    ----------
    names
        Tickers.
    days
        Dates, shape ``(n,)``.
    simple
        Returns, shape ``(n, 20)``.
    volatility
        Forecasts of their standard deviations, made the day before, shape ``(n, 20)``.
    """

    names: tuple[str, ...]
    days: np.ndarray
    simple: np.ndarray
    volatility: np.ndarray

    @property
    def scaled(self) -> np.ndarray:
        """Returns in units of their forecast volatility."""
        return self.simple / self.volatility


def volatility_of(simple: np.ndarray) -> np.ndarray:
    """Forecast each day's standard deviation from the days before, shape ``(n, d)``.

    The average starts from the mean square of the first `BURN_IN` days, which are therefore no
    forecasts.
    """
    start = np.mean(simple[:BURN_IN] ** 2, axis=0)
    # sigma^2 of day t + 1 from r^2 of day t.
    fed = np.concatenate([start[None] / (1 - DECAY), simple[:-1] ** 2])
    variance = lfilter([1 - DECAY], [1.0, -DECAY], fed, axis=0)
    return np.maximum(np.sqrt(variance), LEAST_VOLATILITY)


def load_returns() -> Returns:
    """Read the prices that skfolio carries; the days that start the volatility are left out.

    Raises
    ------
    ImportError
        If skfolio is not installed.
    """
    try:
        from skfolio.datasets import load_sp500_dataset
    except ImportError as error:
        raise ImportError(
            'The prices come with skfolio: pip install -e ".[portfolio]". The expected shortfall '
            "needs only the networks in this folder."
        ) from error
    prices = load_sp500_dataset()
    simple = prices.pct_change().to_numpy()[1:]
    return Returns(
        tuple(str(name) for name in prices.columns),
        prices.index.to_numpy()[1:][BURN_IN:],
        simple[BURN_IN:],
        volatility_of(simple)[BURN_IN:],
    )
