"""Guard: what may be kept, sent and reached. Secrets at rest, and the addresses that may be called."""
