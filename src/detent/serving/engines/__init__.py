"""Adapters to engines, one package each; the embedded model among them."""
