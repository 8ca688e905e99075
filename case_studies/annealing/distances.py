"""Wasserstein distances on a line, between weighted samples."""

import numpy as np


def wasserstein(
    x: np.ndarray, y: np.ndarray, share: np.ndarray | None = None, order: int = 1
) -> float:
    """Return W1 or W2 of a weighted sample `x` and an equally weighted one `y`.

    On a line the best plan pairs quantiles, so that W_p^p is the integral of |F^-1 - G^-1|^p.

    Parameters
    ----------
    x, y
        Samples, shapes (n,) and (m,).
    share
        Normalised weights of `x`; equal ones if not given.
    order
        p.
    """
    share = np.full(len(x), 1 / len(x)) if share is None else share
    by_x, by_y = np.argsort(x), np.argsort(y)
    levels_x = np.cumsum(share[by_x]) / np.sum(share)
    levels_y = np.arange(1, len(y) + 1) / len(y)
    # Between neighbours of both lists of levels, both quantile functions are constant.
    levels = np.union1d(levels_x, levels_y)
    middle = levels - 0.5 * np.diff(levels, prepend=0.0)
    index_x = np.minimum(np.searchsorted(levels_x, middle), len(x) - 1)
    index_y = np.minimum(np.searchsorted(levels_y, middle), len(y) - 1)
    apart = np.abs(x[by_x][index_x] - y[by_y][index_y]) ** order
    return float(np.sum(apart * np.diff(levels, prepend=0.0)) ** (1 / order))
