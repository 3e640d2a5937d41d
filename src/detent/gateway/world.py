"""The snapshot as the data plane uses it: look-ups made, credentials opened, lanes laid. Swapped as a whole."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

import msgspec

from detent.gateway.errors import CredentialUnusable
from detent.gateway.model import EMBEDDED
from detent.gateway.snapshot import KeyEntry, ProviderEntry, Snapshot, TargetEntry
from detent.gateway.upstream import Client, Lane
from detent.guard.addresses import read_endpoint
from detent.guard.vault import Vault
from detent.kernel.errors import DetentError
from detent.kernel.identity import Permission
from detent.kernel.secret import Secret

_HEADER_VALUE: Final = re.compile(r"[!-~]+")


class Deployment:
    """A model at a provider, ready to be called. No struct: it holds a credential, which no repr may show.

    Attributes:
        provider: the provider's name.
        model: the model's name there.
        model_json: the same as JSON.
        price: None when unpriced.
        lane: None when the provider cannot be called at all; `problem` says why then.
        path: of the endpoint that is called.
        probe: whether its health is asked for, rather than only its port (the embedded engine).
    """

    __slots__ = ("_head", "lane", "model", "model_json", "path", "price", "probe", "problem", "provider")

    def __init__(self, target: TargetEntry, provider: str, seat: Seat) -> None:
        self.provider = provider
        self.model = target.model
        self.model_json = msgspec.json.encode(target.model)
        self.price = target.price
        self.lane = seat.lane
        self.path = seat.path + "/chat/completions"
        self.problem = seat.problem
        self.probe = provider == EMBEDDED
        head = [f"POST {self.path} HTTP/1.1"]
        if seat.lane is not None:
            head += [f"host: {seat.lane.endpoint.authority}", "content-type: application/json", "user-agent: detent"]
        if seat.credential is not None:
            head.append(f"authorization: Bearer {seat.credential.reveal()}")
        head += ["accept-encoding: identity", ""]
        self._head = "\r\n".join(head).encode()

    def request(self, body: bytes, *, traceparent: str, stream: bool) -> bytes:
        """The whole request for a body."""
        accept = "text/event-stream" if stream else "application/json"
        rest = f"accept: {accept}\r\ntraceparent: {traceparent}\r\ncontent-length: {len(body)}\r\n\r\n"
        return b"".join((self._head, rest.encode(), body))


class Seat(msgspec.Struct, frozen=True):
    """Where a provider is reached, or why it is not."""

    lane: Lane | None = None
    path: str = ""
    credential: Secret | None = None
    problem: str = ""


class Way(msgspec.Struct, frozen=True):
    """A route and its deployments in order."""

    name: str
    created: int
    deployments: tuple[Deployment, ...]


class World(msgspec.Struct, frozen=True):
    """Everything that decides a call.

    Attributes:
        keys: by hash of the token.
        ways: by project, then by route name.
        keep_content: by project; absent means the installation's setting.
    """

    position: int
    keys: dict[str, KeyEntry]
    ways: dict[str, dict[str, Way]]
    keep_content: dict[str, bool]

    def find(self, key: KeyEntry, name: str) -> Way | None:
        """The route, if it exists in the key's project and the key may call it."""
        if key.routes and name not in key.routes:
            return None
        return self.ways.get(key.project, {}).get(name)

    def visible(self, key: KeyEntry) -> list[Way]:
        """The routes that the key may call, by name."""
        ways = self.ways.get(key.project, {})
        return [ways[name] for name in sorted(ways) if not key.routes or name in key.routes]

    def callable_by(self, key: KeyEntry) -> bool:
        """Whether the key is for calling models."""
        return Permission.GATEWAY_CALL in key.permissions


def build_world(snapshot: Snapshot, vault: Callable[[], Vault], client: Client) -> tuple[World, tuple[str, ...]]:
    """Prepare a snapshot for use; also what of it cannot be used, as sentences.

    A provider that cannot be called (a credential that does not open, a URL that is refused) spoils only its own
    deployments.
    """
    problems: list[str] = []
    seats: dict[str, Seat] = {}
    for name, provider in snapshot.providers.items():
        try:
            seats[name] = _seat(provider, vault, client)
        except DetentError as error:
            problems.append(f"The provider '{name}' cannot be called: {error}")
            seats[name] = Seat(problem=error.message)
    gone = Seat(problem="The provider is not in the snapshot.")
    ways: dict[str, dict[str, Way]] = {}
    for route in snapshot.routes.values():
        deployments = tuple(
            Deployment(target, target.provider.partition("/")[2], seats.get(target.provider, gone))
            for target in route.targets
        )
        ways.setdefault(route.project, {})[route.name] = Way(route.name, route.created, deployments)
    keep = {project: policy == "keep" for project, policy in snapshot.content.items()}
    return World(snapshot.position, snapshot.keys, ways, keep), tuple(problems)


def _seat(provider: ProviderEntry, vault: Callable[[], Vault], client: Client) -> Seat:
    endpoint = read_endpoint(provider.url)
    credential = None
    if provider.sealed:
        credential = vault().open(provider.sealed, url=provider.url)
        if not _HEADER_VALUE.fullmatch(credential.reveal()):
            raise CredentialUnusable(
                "The stored credential holds characters that no header may.", hint="Enter it again."
            )
    return Seat(client.lane(endpoint, allow_private=provider.allow_private), endpoint.path, credential)
