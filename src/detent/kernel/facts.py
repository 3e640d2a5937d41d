"""Facts: everything that changes the control plane, in the past tense and for ever.

A room declares its fact bodies as frozen Structs and the views (current state) folded from them:

    @fact("key.minted", version=1)
    class KeyMinted(FactBody): ...

    KEYS = View("keys", KeyState, (KeyMinted, KeyRevoked), key=lambda f: f.stream, fold=fold_key)

Content and personal data never stand in a fact, only digests, ids and commitments, so that erasure and integrity do not
conflict. A newer shape of a body gets a higher version and an upcaster from the one before; a stored fact is never
edited.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, Generic, TypeVar

import msgspec

from detent.kernel.errors import BugError, StorageFailed
from detent.kernel.identity import Actor

ANY_VERSION: Final = -1
"""Expected stream version of a draft that does not care what came before."""

NEW_STREAM: Final = 0
"""Expected stream version of a draft that must be the first of its stream."""


class FactBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a fact says. Subclass with `@fact(kind, version)`; fields are JSON types or Structs of them."""

    kind: ClassVar[str] = ""
    kind_version: ClassVar[int] = 0
    sealed_at_once: ClassVar[bool] = False


B = TypeVar("B", bound=FactBody)
S = TypeVar("S", bound=msgspec.Struct)


def fact(kind: str, *, version: int = 1, sealed_at_once: bool = False) -> Callable[[type[B]], type[B]]:
    """Name a fact body.

    Args:
        kind: `noun.verbed`, unique in the product.
        version: of the body's shape, from 1.
        sealed_at_once: chain it into the ledger within its own transaction also where ordinary facts are chained a
            moment later (deletions, role and policy changes).
    """

    def mark(body: type[B]) -> type[B]:
        body.kind = kind
        body.kind_version = version
        body.sealed_at_once = sealed_at_once
        return body

    return mark


class Draft(msgspec.Struct, frozen=True):
    """A fact before it is recorded.

    Attributes:
        stream: the thing it is about, e.g. `key/0190...`; facts of one stream are numbered from 1.
        body: what happened.
        expected: the stream's version the writer has seen; `NEW_STREAM` to be first, `ANY_VERSION` not to care.
    """

    stream: str
    body: FactBody
    expected: int = ANY_VERSION


class Fact(msgspec.Struct, frozen=True):
    """A recorded fact, as readers see it: the body is lifted to its current version.

    Attributes:
        position: place in the chain, from 1 without gaps; 0 while not sealed yet.
        id: UUIDv7.
        stream, version: what it is about, and its number there.
        project: the project it belongs to.
        actor, time, reason: who, when (ns since the epoch, UTC), why (one line; may be empty).
        body: what happened.
        hash: hex SHA-256 that chains it to the fact before; empty while not sealed yet.
    """

    position: int
    id: str
    stream: str
    version: int
    project: str
    actor: Actor
    time: int
    reason: str
    body: FactBody
    hash: str = ""

    @property
    def kind(self) -> str:
        """The body's kind."""
        return self.body.kind


Upcaster = Callable[[dict[str, Any]], dict[str, Any]]
"""Lifts a body's JSON from one version to the next."""


@dataclass(frozen=True, slots=True)
class View(Generic[S]):
    """Current state folded from facts, kept by the ledger in the same transaction as the facts.

    Attributes:
        name: of the view; unique in the product.
        state: the frozen Struct that a row holds.
        bodies: the fact bodies it folds.
        fold: `(state or None, fact) -> state or None`; None removes the row. Pure: no clock, no I/O.
        key: which row a fact concerns; the stream unless told otherwise.
    """

    name: str
    state: type[S]
    bodies: tuple[type[FactBody], ...]
    fold: Callable[[S | None, Fact], S | None]
    key: Callable[[Fact], str] = field(default=lambda f: f.stream)


class FactCatalog:
    """All fact kinds, upcasters and views of the product; the composition builds one and gives it to the ledger."""

    def __init__(
        self,
        bodies: Iterable[type[FactBody]],
        views: Iterable[View[Any]] = (),
        upcasters: Mapping[tuple[str, int], Upcaster] | None = None,
    ) -> None:
        self.bodies: dict[str, type[FactBody]] = {}
        for body in bodies:
            if not body.kind or self.bodies.get(body.kind, body) is not body:
                raise BugError(f"The fact kind '{body.kind}' of {body.__name__} is missing or used twice.")
            self.bodies[body.kind] = body
        self.views: tuple[View[Any], ...] = tuple(views)
        names = [view.name for view in self.views]
        if len(set(names)) != len(names):
            raise BugError(f"Two views share a name: {sorted(names)}.")
        self._upcasters = dict(upcasters or {})
        self._by_kind: dict[str, tuple[View[Any], ...]] = {
            kind: tuple(v for v in self.views if body in v.bodies) for kind, body in self.bodies.items()
        }

    def views_of(self, kind: str) -> Sequence[View[Any]]:
        """The views that fold facts of this kind."""
        return self._by_kind.get(kind, ())

    def load(self, kind: str, version: int, data: dict[str, Any]) -> FactBody:
        """A stored body as its current type, lifted through the upcasters.

        Raises:
            StorageFailed: the kind or version is unknown, as when a newer Detent wrote it; or the body is damaged.
        """
        body = self.bodies.get(kind)
        if body is None or version > body.kind_version:
            raise StorageFailed(
                f"The ledger holds a fact '{kind}' version {version} that this Detent does not know.",
                hint="Run the version of Detent that wrote it, or a newer one.",
            )
        for step in range(version, body.kind_version):
            upcast = self._upcasters.get((kind, step))
            if upcast is None:
                raise BugError(f"No upcaster lifts '{kind}' from version {step}.")
            data = upcast(data)
        try:
            return msgspec.convert(data, body)
        except msgspec.ValidationError as error:
            raise StorageFailed(
                f"A stored fact '{kind}' version {version} cannot be read: {error}.", hint="Run `detent audit verify`."
            ) from None
