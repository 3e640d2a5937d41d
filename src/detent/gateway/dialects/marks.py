"""Opaque thinking state and whose it is.

Signatures of thinking blocks, Gemini's thought signatures and OpenAI's encrypted reasoning go to the client and come
back with the next turn, which another provider may get (a fallback, another route). A provider refuses state that it
did not write. So in the neutral type state carries its maker's mark, and a writer sends only what is its own.
Anthropic's, which Claude on Bedrock shares, has no mark: there, the client's bytes are the provider's.
"""

from __future__ import annotations

from typing import Final

GEMINI: Final = "gemini."
OPENAI: Final = "openai."
_MARKS: Final = (GEMINI, OPENAI)


def marked(mark: str, state: str) -> str:
    """State with its maker's mark; nothing stays nothing."""
    return mark + state if state else ""


def own(mark: str, state: str) -> str:
    """The maker's own bytes; empty for state of another maker."""
    return state[len(mark) :] if state.startswith(mark) else ""


def unmarked(state: str) -> str:
    """Anthropic's state; empty for that of another maker."""
    return "" if state.startswith(_MARKS) else state
