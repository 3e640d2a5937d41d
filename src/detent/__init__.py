"""Detent: LLMOps with one history. A change moves forward only when it has earned it."""

__version__ = "0.1.0"
