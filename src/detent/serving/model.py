"""What serves models: engines and the models they answer for. Frozen, no I/O."""

from __future__ import annotations

from typing import Literal

import msgspec

Dialect = Literal["openai"]
DESCRIPTOR = "{fd}"
"""Stands in a command for the number of the listening socket that is handed down."""

PORT = "{port}"
"""Stands in a command for the TCP port."""


class ServedModel(msgspec.Struct, frozen=True, kw_only=True):
    """A model that an engine answers for.

    Attributes:
        name: as clients of the engine name it.
        context: tokens of prompt and answer together; 0 when unknown.
        base: the model that this is an adapter of; empty for a whole model.
    """

    name: str
    context: int = 0
    base: str = ""


class Engine(msgspec.Struct, frozen=True, kw_only=True):
    """A model server: one that Detent starts and supervises, or (without a command) one that it only connects to.

    Attributes:
        command: arguments after the interpreter or program, with `DESCRIPTOR` and `PORT` where those belong.
        program: what to run; empty for the Python interpreter that Detent runs on.
        environment: set for the process besides what it inherits.
        takes_socket: whether it takes over a listening socket, so that its port survives a restart.
        base: path of the dialect's base URL.
        health: path that answers 200 when a call would be served.
        drain_seconds: what answers in flight get after SIGTERM.
    """

    name: str
    dialect: Dialect = "openai"
    program: str = ""
    command: tuple[str, ...] = ()
    environment: dict[str, str] = {}
    takes_socket: bool = False
    base: str = "/v1"
    health: str = "/healthz"
    drain_seconds: float = 30.0
    models: tuple[ServedModel, ...] = ()

    def arguments(self, *, port: int, fd: int | None = None) -> tuple[str, ...]:
        """The command for this port and socket."""
        values = {PORT: str(port), DESCRIPTOR: "" if fd is None else str(fd)}
        return tuple(values.get(argument, argument) for argument in self.command)

    def url(self, port: int, host: str = "127.0.0.1") -> str:
        """The base URL that the gateway calls."""
        return f"http://{host}:{port}{self.base}"

    def health_url(self, port: int, host: str = "127.0.0.1") -> str:
        """The URL that tells whether it is ready."""
        return f"http://{host}:{port}{self.health}"
