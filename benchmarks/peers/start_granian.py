"""Run the gateway worker as it is, but with granian in uvicorn's place. For measurement: limits on heads are gone."""

from __future__ import annotations

import socket
import sys
from collections.abc import Sequence
from typing import Any

import uvicorn.config
import uvicorn.server
import uvloop


class Config:
    """Takes what the worker tells uvicorn; only the application matters."""

    def __init__(self, app: Any, **_settings: object) -> None:
        self.app = app


class Server:
    """Serves it with granian, in this process and loop."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.should_exit = self.force_exit = False

    def run(self, sockets: Sequence[socket.socket]) -> None:
        """Serve until killed."""
        from granian.constants import Interfaces  # type: ignore[import-not-found]
        from granian.server.embed import Server as Granian  # type: ignore[import-not-found]

        host, port = sockets[0].getsockname()[:2]
        sockets[0].close()
        server = Granian(
            self.config.app, address=host, port=port, interface=Interfaces.ASGI, backlog=2048, log_enabled=False
        )
        uvloop.run(server.serve())


if __name__ == "__main__":
    uvicorn.config.Config = Config  # type: ignore[assignment,misc]
    uvicorn.server.Server = Server  # type: ignore[assignment,misc]
    from detent.gateway.worker import main

    sys.exit(main())
