"""Efforts in words and budgets in tokens: one from the other, where a dialect has only one of them."""

from __future__ import annotations

from detent.gateway.dialects.quirks import budget_of, effort_of
from detent.kernel.chat import Effort, Reasoning


def effort(reasoning: Reasoning) -> Effort:
    """The effort that was asked for, or that a budget comes to; empty when neither is known."""
    if reasoning.effort or reasoning.budget_tokens is None:
        return reasoning.effort
    return effort_of(reasoning.budget_tokens)


def budget(reasoning: Reasoning, *, least: int = 0, most: int | None = None) -> int | None:
    """The budget that was asked for, or that an effort comes to; None when neither is known.

    Args:
        least: below it a budget is raised, unless it is 0 (no thinking).
        most: above it a budget is lowered.
    """
    tokens = reasoning.budget_tokens
    if tokens is None:
        if not reasoning.effort:
            return None
        tokens = budget_of(reasoning.effort)
    if tokens <= 0:
        return 0
    tokens = max(tokens, least)
    return tokens if most is None else min(tokens, most)
