"""Listening sockets: bound once by the supervisor and handed down, so that a port survives the death of its server."""

from __future__ import annotations

import errno
import socket
from typing import Final

from detent.kernel.errors import BadSettings

LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})
_BACKLOG: Final = 2048


def listen(host: str, port: int, *, setting: str) -> socket.socket:
    """A listening socket, inheritable by child processes.

    Args:
        setting: the setting that the port comes from, as `section.field`, for the message.

    Raises:
        BadSettings: the address cannot be listened on: taken, not this machine's, or reserved.
    """
    section, _, field = setting.partition(".")
    variable = "DETENT_" + ("" if section == "control" else section.upper() + "_") + field.upper()
    try:
        family, kind, protocol, _name, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind, protocol)
    except OSError as error:
        raise BadSettings(f"'{host}' is no address to listen on: {error.strerror}.", field=setting) from None
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        bound.listen(_BACKLOG)
    except OSError as error:
        bound.close()
        if error.errno == errno.EADDRINUSE:
            hint = f"Stop what listens there (`ss -ltnp 'sport = :{port}'` names it), or set {variable}."
            raise BadSettings(f"Port {port} on {host} is taken.", hint=hint, field=setting) from None
        raise BadSettings(
            f"Detent cannot listen on {host} port {port}: {error.strerror}.",
            hint=f"Set {variable} to a port from 1024 to 65535, and the host to an address of this machine.",
            field=setting,
        ) from None
    bound.set_inheritable(True)
    return bound


def url_of(host: str, port: int) -> str:
    """The URL that people on this machine open."""
    # A wildcard is no address that anybody can open.
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]", "::1": "[::1]"}.get(host, host)  # noqa: S104
    return f"http://{shown}:{port}"
