"""Governance: who may come in, what they may do, and the proof of what was done."""
