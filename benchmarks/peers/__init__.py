"""The gateways that Detent is measured beside: how each is installed, started and called.

The versions are pinned in this folder. Each gets an environment of its own under `build/peers/`.
"""
