"""Limits and budgets: what a call needs is reserved before it goes out and settled when it is over."""
