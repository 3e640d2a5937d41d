"""Admission: how many calls a deployment gets at once, who waits for it, and who is told at once that it is no use."""

from __future__ import annotations

from detent.gateway.admission.gate import Gate, GateStatus, Outcome, Permit, Scheduler, Ticking, together
from detent.gateway.admission.limit import AdaptiveLimit, Limit

__all__ = ["AdaptiveLimit", "Gate", "GateStatus", "Limit", "Outcome", "Permit", "Scheduler", "Ticking", "together"]
