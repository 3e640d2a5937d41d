"""Dialects: how clients ask and providers answer, and the way between any two of them through the neutral chat type."""
