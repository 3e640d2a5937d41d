"""The snapshot as the data plane uses it: look-ups made, credentials opened, lanes laid. Swapped as a whole."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterable
from time import monotonic
from typing import Final

import msgspec

from detent.gateway.admission import Gate, together
from detent.gateway.dialects.quirks import OPENAI, Quirks, quirks_of
from detent.gateway.errors import CredentialUnusable
from detent.gateway.model import EMBEDDED, Budget, Limit, Queue, Route
from detent.gateway.routing import Candidate, Fleet, HedgeClock, RetryBudget
from detent.gateway.signing import Signer, signer
from detent.gateway.snapshot import KeyEntry, ProviderEntry, RouteEntry, Snapshot, TargetEntry
from detent.gateway.upstream import Client, Lane, Timeouts
from detent.guard.addresses import read_endpoint
from detent.guard.vault import Vault
from detent.kernel.clock import SECOND, Clock
from detent.kernel.errors import DetentError
from detent.kernel.identity import Permission
from detent.kernel.secret import Secret

_HEADER_VALUE: Final = re.compile(r"[!-~]+")
_ANTHROPIC_VERSION: Final = "2023-06-01"


class Seat(msgspec.Struct, frozen=True):
    """Where a provider is reached and how, or why it is not."""

    dialect: str = "openai"
    flavour: str = ""
    lane: Lane | None = None
    path: str = ""
    credential: Secret | None = None
    quirks: Quirks = OPENAI
    region: str = ""
    api_version: str = ""
    max_concurrency: int = 0
    signer: Signer | None = None
    problem: str = ""


_GONE: Final = Seat(problem="The provider is not in the snapshot.")


class Deployment:
    """A model at a provider, ready to be called. No struct: it holds a credential, which no repr may show.

    Attributes:
        name: `project/provider/model`, by which the worker remembers how it fares.
        provider: the provider's name.
        model: the model's name there.
        model_json: the same as JSON.
        dialect: what it speaks.
        target: as the snapshot has it, with its prices.
        lane: None when the provider cannot be called at all; `problem` says why then.
        base: path of the provider's base URL.
        chat_path: of chat completions behind it.
        gate: lets as many calls in as the deployment bears.
        metered: whether limits or budgets count what is asked of the model.
        probe: whether its health is asked for, rather than only its port (the embedded engine).
    """

    __slots__ = (
        "_clock",
        "_heads",
        "_seat",
        "base",
        "chat_path",
        "dialect",
        "gate",
        "lane",
        "metered",
        "model",
        "model_json",
        "name",
        "probe",
        "problem",
        "provider",
        "quirks",
        "target",
    )

    def __init__(
        self, target: TargetEntry, provider: str, seat: Seat, gate: Gate, clock: Clock, *, metered: bool = False
    ) -> None:
        self._clock = clock
        self.name = name_of(target)
        self.gate = gate
        self.metered = metered
        self.provider = provider
        self.model = target.model
        self.model_json = msgspec.json.encode(target.model)
        self.dialect = seat.dialect
        self.quirks = seat.quirks
        self.target = target
        self.lane = seat.lane
        self.base = seat.path
        self.chat_path = seat.quirks.path_for(target.model)
        self.problem = seat.problem
        self.probe = provider == EMBEDDED
        self._seat = seat
        self._heads: dict[tuple[str, str], bytes] = {}

    @property
    def has_responses(self) -> bool:
        """Whether it serves the Responses API beside chat completions, at the usual place: OpenAI, or who says so."""
        own = self._seat.flavour in {"openai", "azure"}
        own = own or (self.lane is not None and self.lane.endpoint.host == "api.openai.com")
        return self.dialect == "openai" and own and self.quirks.path == OPENAI.path

    @property
    def max_concurrency(self) -> int:
        """Calls in flight at most; 0 lets it adapt without a bound."""
        return self._seat.max_concurrency

    def request(
        self,
        path: str,
        body: bytes,
        *,
        traceparent: str,
        stream: bool,
        content_type: str = "application/json",
        headers: tuple[tuple[str, str], ...] = (),
    ) -> bytes:
        """The whole request for a body, to a path behind the provider's base."""
        head = self._heads.get((path, content_type))
        if head is None:
            head = self._head(path, content_type)
            if len(self._heads) < 64:  # a multipart's boundary is part of its type
                self._heads[path, content_type] = head
        rest = f"traceparent: {traceparent}\r\ncontent-length: {len(body)}\r\n"
        if not headers or not any(name == "accept" for name, _ in headers):
            rest += "accept: text/event-stream\r\n" if stream else "accept: application/json\r\n"
        if self.dialect == "anthropic" and not any(name == "anthropic-version" for name, _ in headers):
            rest += f"anthropic-version: {self._seat.api_version or _ANTHROPIC_VERSION}\r\n"
        if self._seat.signer is not None:
            headers = (*headers, *self._signed(self._seat.signer, path, content_type, body))
        for name, value in headers:
            rest += f"{name}: {value}\r\n"
        return b"".join((head, rest.encode("latin-1"), b"\r\n", body))

    def now(self) -> int:
        """Seconds since the epoch."""
        return self._clock.now() // SECOND

    def _signed(self, sign: Signer, path: str, content_type: str, body: bytes) -> tuple[tuple[str, str], ...]:
        """What authorises this very request."""
        assert self.lane is not None
        endpoint = self.lane.endpoint
        url = f"{endpoint.scheme}://{endpoint.authority}{self.base}{path}"
        said = (("host", endpoint.authority), ("content-type", content_type))
        return sign("POST", url, said, body, self._clock.now() / SECOND)

    def _head(self, path: str, content_type: str) -> bytes:
        seat = self._seat
        lines = [f"POST {self.base}{path} HTTP/1.1"]
        if seat.lane is not None:
            lines += [f"host: {seat.lane.endpoint.authority}", f"content-type: {content_type}", "user-agent: detent"]
        if seat.credential is not None and seat.signer is None:
            lines.append(_authorization(self.dialect, seat.quirks, seat.credential))
        lines += ["accept-encoding: identity", ""]
        return "\r\n".join(lines).encode("latin-1")


class Way(msgspec.Struct, frozen=True):
    """A route and its deployments in order.

    Attributes:
        path: `project/name`.
        simple: whether there is one deployment and nothing else that could be done: no retry, no fallback.
        candidates: the deployments as its policy sees them, in the same order.
        hedges: when a call at each of them is late; None where nothing is hedged.
        budget: of its retries and hedges.
    """

    name: str
    project: str
    path: str
    created: int
    deployments: tuple[Deployment, ...]
    rules: Route
    timeouts: Timeouts
    simple: bool
    candidates: tuple[Candidate, ...]
    hedges: tuple[HedgeClock | None, ...]
    budget: RetryBudget


class World(msgspec.Struct, frozen=True):
    """Everything that decides a call.

    Attributes:
        keys: by hash of the token; `keys_by_id` the same by their ids.
        ways: by project, then by route name.
        keep_content: by project; absent means the installation's setting.
        limits, budgets: by project.
        weights: projects' shares in admission; 1 where absent.
        control_url: where the control plane is.
    """

    position: int
    keys: dict[str, KeyEntry]
    keys_by_id: dict[str, KeyEntry]
    ways: dict[str, dict[str, Way]]
    keep_content: dict[str, bool]
    limits: dict[str, tuple[Limit, ...]]
    budgets: dict[str, tuple[Budget, ...]]
    weights: dict[str, int]
    control_url: str

    def find(self, key: KeyEntry, name: str) -> Way | None:
        """The route, if it exists in the key's project and the key may call it."""
        if key.routes and name not in key.routes:
            return None
        return self.ways.get(key.project, {}).get(name)

    def other(self, way: Way, name: str) -> Way | None:
        """A route that another one of the same project names."""
        return self.ways.get(way.project, {}).get(name)

    def visible(self, key: KeyEntry) -> list[Way]:
        """The routes that the key may call, by name."""
        ways = self.ways.get(key.project, {})
        return [ways[name] for name in sorted(ways) if not key.routes or name in key.routes]

    def callable_by(self, key: KeyEntry) -> bool:
        """Whether the key is for calling models."""
        return Permission.GATEWAY_CALL in key.permissions


class Yard:
    """What a worker knows of deployments beyond the snapshots: how each fares, and who waits for it."""

    def __init__(self, draw: Callable[[], float], clock: Clock) -> None:
        self.clock = clock
        self.fleet = Fleet(draw)
        self.gates: dict[str, Gate] = {}

    def gate(self, name: str, queue: Queue, max_concurrency: int) -> Gate:
        """A deployment's gate, with the queue of all routes that lead to it."""
        found = self.gates.get(name)
        if found is None:
            found = self.gates[name] = Gate(asyncio.get_running_loop(), name)
        found.configure(queue, max_concurrency)
        return found

    def keep(self, ways: Iterable[Way]) -> None:
        """Forget deployments and routes that the snapshot no longer has, once no call is at them any more.

        One that comes back while its old calls are still at it would else be taken for idle.
        """
        ways = tuple(ways)
        self.fleet.keep((c for way in ways for c in way.candidates), (f"{way.project}/{way.name}" for way in ways))
        names = {deployment.name for way in ways for deployment in way.deployments}
        self.gates = {name: gate for name, gate in self.gates.items() if name in names or gate.busy}


def build_world(
    snapshot: Snapshot, vault: Callable[[], Vault], client: Client, yard: Yard
) -> tuple[World, tuple[str, ...]]:
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
    queues = _queues(snapshot.routes.values())
    deployments = {
        name: _deployment(snapshot, name, target, seats, yard, queues[name])
        for route in snapshot.routes.values()
        for target in route.targets
        for name in (name_of(target),)
    }
    ways: dict[str, dict[str, Way]] = {}
    for route in snapshot.routes.values():
        ways.setdefault(route.project, {})[route.name] = _way(route, deployments, client.timeouts, yard)
    yard.keep(way for of_project in ways.values() for way in of_project.values())
    keep = {project: policy == "keep" for project, policy in snapshot.content.items()}
    world = World(
        snapshot.position,
        snapshot.keys,
        {key.id: key for key in snapshot.keys.values()},
        ways,
        keep,
        snapshot.limits,
        snapshot.budgets,
        snapshot.weights,
        snapshot.control_url,
    )
    return world, tuple(problems)


def name_of(target: TargetEntry) -> str:
    """A deployment's name: `project/provider/model`."""
    return f"{target.provider}/{target.model}"


def _queues(routes: Iterable[RouteEntry]) -> dict[str, Queue]:
    """The queue of each deployment, of all routes that lead to it."""
    found: dict[str, list[Queue]] = {}
    for route in routes:
        for target in route.targets:
            found.setdefault(name_of(target), []).append(route.rules.queue)
    return {name: together(queues) for name, queues in found.items()}


def _deployment(
    snapshot: Snapshot, name: str, target: TargetEntry, seats: dict[str, Seat], yard: Yard, queue: Queue
) -> Deployment:
    project, _, provider = target.provider.partition("/")
    seat = seats.get(target.provider, _GONE)
    limited = any(rule.scope == "model" for rule in snapshot.limits.get(project, ()))
    budgeted = any(rule.scope == "model" for rule in snapshot.budgets.get(project, ()))
    return Deployment(
        target,
        provider,
        seat,
        yard.gate(name, queue, seat.max_concurrency),
        yard.clock,
        metered=limited or budgeted,
    )


def _way(route: RouteEntry, known: dict[str, Deployment], usual: Timeouts, yard: Yard) -> Way:
    rules = route.rules
    now = monotonic()
    candidates = tuple(
        yard.fleet.candidate(name_of(t), rules.breaker, now, weight=t.weight, price=t.price) for t in route.targets
    )
    hedged = rules.hedge.quantile > 0
    return Way(
        route.name,
        route.project,
        f"{route.project}/{route.name}",
        route.created,
        tuple(known[name_of(target)] for target in route.targets),
        rules,
        _timeouts(rules, usual),
        len(candidates) == 1 and not rules.fallbacks and rules.retry.attempts == 1,
        candidates,
        tuple(HedgeClock(candidate.health, rules.hedge) if hedged else None for candidate in candidates),
        yard.fleet.budget(f"{route.project}/{route.name}"),
    )


def _timeouts(rules: Route, usual: Timeouts) -> Timeouts:
    own = rules.timeouts
    return Timeouts(
        own.connect or usual.connect,
        own.first_token or usual.first_token,
        own.idle or usual.idle,
        own.total or usual.total,
    )


def _seat(provider: ProviderEntry, vault: Callable[[], Vault], client: Client) -> Seat:
    endpoint = read_endpoint(provider.url)
    credential = None
    if provider.sealed:
        credential = vault().open(provider.sealed, url=provider.url)
        if not _HEADER_VALUE.fullmatch(credential.reveal()):
            raise CredentialUnusable(
                "The stored credential holds characters that no header may.", hint="Enter it again."
            )
    signing = provider.dialect == "bedrock" and credential is not None
    return Seat(
        provider.dialect,
        provider.flavour,
        client.lane(endpoint, allow_private=provider.allow_private),
        endpoint.path,
        credential,
        quirks_of(provider.flavour, dialect=provider.dialect, api_version=provider.api_version),
        provider.region,
        provider.api_version,
        provider.max_concurrency,
        signer(credential, provider.region) if signing and credential is not None else None,
    )


def _authorization(dialect: str, quirks: Quirks, credential: Secret) -> str:
    plain = credential.reveal()
    if dialect == "anthropic":
        return f"x-api-key: {plain}"
    if dialect == "gemini":
        return f"x-goog-api-key: {plain}"
    if quirks.auth == "authorization":
        return f"authorization: Bearer {plain}"
    return f"{quirks.auth}: {plain}"
