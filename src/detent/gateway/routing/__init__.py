"""Routing: which deployment is asked, how it is doing, and what happens when it fails.

Pure mechanics: time and chance come from outside, nothing here waits or talks to anybody. Times are monotonic seconds
unless a name says otherwise, and all workers see for themselves.
"""

from detent.gateway.routing.breaker import Circuit, State
from detent.gateway.routing.choice import fallbacks, order, prefix_key
from detent.gateway.routing.failures import COUNTED, classify, rejected_class, retriable
from detent.gateway.routing.health import Candidate, DeploymentStatus, Fleet, Health, Quantiles, Trial, soonest
from detent.gateway.routing.hedging import HedgeClock
from detent.gateway.routing.quantiles import Histogram, SlidingHistogram
from detent.gateway.routing.retries import RetryBudget, pause
from detent.gateway.routing.shadows import ShadowPurse, copied

__all__ = [
    "COUNTED",
    "Candidate",
    "Circuit",
    "DeploymentStatus",
    "Fleet",
    "Health",
    "HedgeClock",
    "Histogram",
    "Quantiles",
    "RetryBudget",
    "ShadowPurse",
    "SlidingHistogram",
    "State",
    "Trial",
    "classify",
    "copied",
    "fallbacks",
    "order",
    "pause",
    "prefix_key",
    "rejected_class",
    "retriable",
    "soonest",
]
