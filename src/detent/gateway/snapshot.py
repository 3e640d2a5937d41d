"""The snapshot: everything the data plane needs to know, in one immutable value.

The control plane compiles it from the ledger's views and publishes it as a file; gateway workers notice the new file,
load it and swap it in between two requests. The file stays, so a gateway starts and goes on without the control plane.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Literal, TypeVar

import msgspec

from detent.gateway.dialects.quirks import ENGINE
from detent.gateway.model import (
    EMBEDDED,
    EMBEDDED_MODEL,
    Band,
    Budget,
    Key,
    Limit,
    PriceEntry,
    Provider,
    Route,
    Target,
    Weight,
)
from detent.gateway.prices import PriceTable, dated_prices
from detent.kernel.errors import StorageFailed
from detent.kernel.identity import DEFAULT_PROJECT, Permission
from detent.kernel.money import DatedPrice, Price, in_force

FORMAT: Final = 2
_CURRENT = "current.json"
_KEPT = 20
R = TypeVar("R", Limit, Budget)


class KeyEntry(msgspec.Struct, frozen=True):
    """What the data plane knows of a virtual key, or of a call that is made on somebody's behalf.

    Attributes:
        priority: the band of its calls; empty leaves it to the route.
        user: whose calls they are, where that is known from elsewhere than the request.
    """

    id: str
    project: str
    routes: tuple[str, ...]
    expires: int
    permissions: tuple[Permission, ...]
    priority: Band | Literal[""] = ""
    user: str = ""


class ProviderEntry(msgspec.Struct, frozen=True):
    """What the data plane knows of a provider; `sealed` is its credential's ciphertext, bound to the URL's origin."""

    name: str
    dialect: str
    url: str
    sealed: str
    allow_private: bool
    flavour: str = ""
    region: str = ""
    api_version: str = ""
    max_concurrency: int = 0


class TargetEntry(msgspec.Struct, frozen=True):
    """A deployment behind a route.

    Attributes:
        provider: by its key in `Snapshot.providers`.
        model: its name there.
        price: what held when the snapshot was compiled; None when unpriced.
        later: what comes after it, in the order of the dates.
    """

    provider: str
    model: str
    weight: int
    price: Price | None
    later: tuple[DatedPrice, ...] = ()


def price_at(target: TargetEntry, now: int) -> Price | None:
    """The price that holds at a time (ns since the epoch), not before the snapshot was compiled. Pure."""
    if not target.later:
        return target.price
    held = in_force(target.later, now)
    return target.price if held is None else held.price


class RouteEntry(msgspec.Struct, frozen=True):
    """A route with its targets in order, and its rules (whose own targets are left out)."""

    name: str
    project: str
    created: int
    targets: tuple[TargetEntry, ...]
    rules: Route = Route(name="", project="", targets=())


class Snapshot(msgspec.Struct, frozen=True):
    """The compiled configuration.

    Attributes:
        format: of this file.
        position: the ledger position it was compiled from.
        made: ns since the epoch.
        keys: by hex SHA-256 of the token; only live ones.
        providers: by `project/name`.
        routes: by `project/name`.
        content: the content policy (`keep` or `drop`) by project; absent means the installation's setting.
        limits, budgets: by project.
        weights: projects' shares in admission; 1 where absent.
        control_url: where the control plane is, which keeps files and batches; empty when unknown.
    """

    format: int
    position: int
    made: int
    keys: dict[str, KeyEntry]
    providers: dict[str, ProviderEntry]
    routes: dict[str, RouteEntry]
    content: dict[str, Literal["keep", "drop"]] = {}
    limits: dict[str, tuple[Limit, ...]] = {}
    budgets: dict[str, tuple[Budget, ...]] = {}
    weights: dict[str, int] = {}
    control_url: str = ""


class Sources(msgspec.Struct, frozen=True):
    """What a snapshot is compiled from, read at one ledger position."""

    position: int
    keys: Iterable[Key]
    providers: Iterable[Provider]
    routes: Iterable[Route]
    prices: Iterable[PriceEntry]
    secrets: Mapping[str, str]
    engine_url: str = ""
    limits: Iterable[Limit] = ()
    budgets: Iterable[Budget] = ()
    weights: Iterable[Weight] = ()
    control_url: str = ""


def compile_snapshot(sources: Sources, *, table: PriceTable, now: int) -> Snapshot:
    """Compile the data plane's view of the world. Pure.

    Args:
        sources: current views, ciphertexts by secret id, and the embedded engine's base URL (empty when disabled).
        table: the shipped prices.
        now: ns since the epoch; keys that are expired by then are left out.
    """
    own: dict[str, dict[tuple[str, str], tuple[DatedPrice, ...]]] = {}
    for entry in sources.prices:
        own.setdefault(entry.project, {})[entry.provider, entry.model] = entry.history

    def target_entry(project: str, target: Target) -> TargetEntry:
        dated = dated_prices(table, own.get(project, {}), target.provider, target.model)
        held = in_force(dated, now)
        later = tuple(each for each in dated if each.effective > now)
        path = f"{project}/{target.provider}"
        return TargetEntry(path, target.model, target.weight, held.price if held is not None else None, later)

    providers = {
        f"{p.project}/{p.name}": ProviderEntry(
            p.name,
            p.dialect,
            p.url,
            sources.secrets.get(p.secret_id, ""),
            p.allow_private,
            p.flavour,
            p.region,
            p.api_version,
            p.max_concurrency,
        )
        for p in sources.providers
    }
    keys = {k.hash: KeyEntry(k.id, k.project, k.routes, k.expires, k.permissions) for k in sources.keys if k.live(now)}
    named = {f"{r.project}/{r.name}": r for r in sources.routes}
    if sources.engine_url:
        for project in {DEFAULT_PROJECT, *(k.project for k in keys.values())}:
            engine = ProviderEntry(EMBEDDED, "openai", sources.engine_url, "", True, ENGINE)
            providers[f"{project}/{EMBEDDED}"] = engine
            builtin = Route(name=EMBEDDED_MODEL, project=project, targets=(Target(EMBEDDED, EMBEDDED_MODEL),))
            named.setdefault(f"{project}/{EMBEDDED_MODEL}", builtin)
    routes = {
        path: RouteEntry(
            route.name,
            route.project,
            route.changed,
            tuple(
                target_entry(route.project, target)
                for target in route.targets
                if f"{route.project}/{target.provider}" in providers
            ),
            msgspec.structs.replace(route, targets=()),
        )
        for path, route in named.items()
    }
    return Snapshot(
        FORMAT,
        sources.position,
        now,
        keys,
        providers,
        routes,
        limits=_by_project(sources.limits),
        budgets=_by_project(sources.budgets),
        weights={w.project: w.weight for w in sources.weights},
        control_url=sources.control_url,
    )


def _by_project(rules: Iterable[R]) -> dict[str, tuple[R, ...]]:
    found: dict[str, list[R]] = {}
    for rule in sorted(rules, key=lambda rule: rule.name):
        found.setdefault(rule.project, []).append(rule)
    return {project: tuple(of_project) for project, of_project in found.items()}


def publish(snapshot: Snapshot, folder: Path) -> Path:
    """Write a snapshot where the workers look, atomically and durably; earlier ones stay beside it (the last 20).

    A snapshot that is older than the published one is not written: of two compilers at once, the newer ledger wins.

    Raises:
        StorageFailed: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    data = msgspec.json.encode(snapshot)
    kept = folder / f"{snapshot.position:012d}-{hashlib.sha256(data).hexdigest()[:12]}.json"
    try:
        with _locked(folder / "lock"):
            if _published(folder) > snapshot.position:
                return folder / _CURRENT
            _write(kept, data)
            _write(folder / _CURRENT, data)
            for old in sorted(folder.glob("[0-9]*-*.json"))[:-_KEPT]:
                old.unlink(missing_ok=True)
    except OSError as error:
        raise StorageFailed(
            f"The snapshot cannot be written to {folder}: {error.strerror}.", hint="Free space or correct the mode."
        ) from None
    return folder / _CURRENT


def load(folder: Path) -> Snapshot | None:
    """The published snapshot; None before the first one.

    Raises:
        StorageFailed: the file is damaged or of a format that this version does not know.
    """
    path = folder / _CURRENT
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    try:
        found = msgspec.json.decode(data, type=Snapshot)
    except msgspec.MsgspecError as error:
        raise StorageFailed(
            f"The snapshot {path} is damaged: {error}.", hint="Start the control plane; it writes it anew."
        ) from None
    if found.format != FORMAT:
        raise StorageFailed(
            f"The snapshot {path} has format {found.format}, this version reads {FORMAT}.",
            hint="Run control plane and gateway of the same version.",
        )
    return found


def mark(folder: Path) -> tuple[int, int, int]:
    """Changes when a new snapshot was published; cheap enough to ask many times a second."""
    try:
        found = os.stat(f"{folder}/{_CURRENT}")  # noqa: PTH116  (a third of the time; every call asks)
    except FileNotFoundError:
        return (0, 0, 0)
    return (found.st_ino, found.st_mtime_ns, found.st_size)


def _published(folder: Path) -> int:
    """Position of the published snapshot; a damaged one is there to be replaced."""
    try:
        current = load(folder)
    except StorageFailed:
        return 0
    return 0 if current is None else current.position


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _write(path: Path, data: bytes) -> None:
    fresh = path.with_suffix(f".{os.getpid()}.tmp")
    with fresh.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    fresh.chmod(0o600)
    fresh.replace(path)
