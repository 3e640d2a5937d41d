"""Start TensorZero's HTTP gateway from its wheel, print its URL and stay. Runs in the peer's own environment."""

from __future__ import annotations

import sys
import threading

from tensorzero import tensorzero  # type: ignore[import-not-found]

gateway = tensorzero._start_http_gateway(
    config_file=sys.argv[1], clickhouse_url=None, postgres_url=None, valkey_url=None, async_setup=False
)
print(gateway.base_url, flush=True)
threading.Event().wait()
