"""Guidances: the weight felt at a noise level, for proposals of guided diffusion.

A guidance is a pure function of a position and a `View`; a new one is a new file.
"""

from scoreppl.guidance.differentiable import check_differentiable
from scoreppl.guidance.full_covariance import FullCovariance
from scoreppl.guidance.lags import LAGS
from scoreppl.guidance.limit_state import LimitState
from scoreppl.guidance.line_search import LineSearch
from scoreppl.guidance.lookahead import Lookahead
from scoreppl.guidance.low_rank import LowRank
from scoreppl.guidance.minority import Minority, minority_log_weight
from scoreppl.guidance.moment_matched import MomentMatched
from scoreppl.guidance.mpgd import MPGD
from scoreppl.guidance.random_numbers import RandomNumbers
from scoreppl.guidance.tweedie import Tweedie
from scoreppl.guidance.unguided import Unguided
from scoreppl.guidance.view import Guidance, Guided, View

__all__ = [
    "LAGS",
    "MPGD",
    "FullCovariance",
    "Guidance",
    "Guided",
    "LimitState",
    "LineSearch",
    "Lookahead",
    "LowRank",
    "Minority",
    "MomentMatched",
    "RandomNumbers",
    "Tweedie",
    "Unguided",
    "View",
    "check_differentiable",
    "minority_log_weight",
]
