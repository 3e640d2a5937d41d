"""The ports: what the rooms need from outside, and what adapters implement.

Adapters live in `store` (and behind extras); only `app` names them. Every method may raise `StorageFailed`.
All of them are safe to call from several threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, BinaryIO, Literal, Protocol, TypeVar

import msgspec

from detent.kernel.facts import Draft, Fact, View
from detent.kernel.identity import Actor
from detent.kernel.quotas import Level, Move, Share
from detent.kernel.telemetry import (
    Batch,
    MetricQuery,
    MetricRow,
    Partition,
    Repriced,
    Score,
    Span,
    SpanFilter,
    TracePage,
    Written,
)

S = TypeVar("S", bound=msgspec.Struct)


class Checkpoint(msgspec.Struct, frozen=True):
    """A signed statement about the ledger's first `size` facts.

    Attributes:
        size: how many facts it covers.
        head: hex hash of fact number `size`.
        root: hex Merkle root over their hashes (RFC 9162, section 2.1).
        time: ns since the epoch.
        key_id: hex SHA-256 of the public key, first 16 digits.
        public_key, signature: hex Ed25519 (RFC 8032) over the canonical JSON of the fields above.
    """

    size: int
    head: str
    root: str
    time: int
    key_id: str
    public_key: str
    signature: str


class Finding(msgspec.Struct, frozen=True):
    """Something verification found wrong, at the row."""

    position: int
    problem: Literal[
        "edited", "missing", "reordered", "truncated", "rewritten", "bad_signature", "view_differs", "unsealed"
    ]
    detail: str


class Verification(msgspec.Struct, frozen=True):
    """What `verify` saw: how much it checked, against which checkpoint, and everything that is wrong."""

    facts: int
    head: str
    root: str
    checkpoint: Checkpoint | None
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing was found."""
        return not self.findings


class Ledger(Protocol):
    """Control-plane history: facts, hash-chained, with views updated in the same transaction."""

    def append(self, drafts: Sequence[Draft], *, actor: Actor, project: str, reason: str = "") -> tuple[Fact, ...]:
        """Record all drafts in one transaction, or none.

        Raises:
            Conflict: a stream is not at the version a draft expected.
        """
        ...

    def read(
        self,
        *,
        after: int = 0,
        limit: int = 100,
        stream: str = "",
        kind: str = "",
        project: str = "",
        actor: str = "",
        newest_first: bool = False,
    ) -> tuple[Fact, ...]:
        """Sealed facts in chain order (or newest first), those beyond position `after` (below it when newest first)."""
        ...

    def get(self, view: View[S], key: str) -> S | None:
        """One row of a view."""
        ...

    def rows(self, view: View[S], *, project: str = "") -> dict[str, S]:
        """All rows of a view by key, of one project or of all."""
        ...

    def stream_version(self, stream: str) -> int:
        """How many facts the stream has."""
        ...

    def head(self) -> tuple[int, str]:
        """Number of sealed facts and the hash of the last."""
        ...

    def seal(self) -> int:
        """Chain facts that wait for it; how many were chained."""
        ...

    def checkpoint(self) -> Checkpoint:
        """Sign the current head, keep it in the database and outside."""
        ...

    def last_checkpoint(self) -> Checkpoint | None:
        """The largest checkpoint kept in the database, if there is one."""
        ...

    def verify(self, *, checkpoints: Sequence[Checkpoint] = (), views: bool = True) -> Verification:
        """Recompute everything and compare with what is stored and with the outside checkpoints."""
        ...

    def rebuild(self) -> Mapping[str, int]:
        """Fold all views anew from the facts and swap them in; rows that differed before, by view."""
        ...

    def close(self) -> None:
        """Give everything back."""
        ...


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """A person who signs in. Personal data: kept in a table that can be erased, never in a fact."""

    id: str
    name: str
    role: str
    password_hash: str = ""
    disabled: bool = False
    created: int = 0


class Session(msgspec.Struct, frozen=True, kw_only=True):
    """A signed-in browser. `token_hash` is the hex SHA-256 of the cookie."""

    token_hash: str
    account_id: str
    csrf: str
    created: int
    expires: int


class Accounts(Protocol):
    """People, their sessions, and one-time links."""

    def save(self, account: Account) -> None:
        """Insert or replace by id. Raises Conflict when the name is another account's."""
        ...

    def get(self, account_id: str) -> Account | None: ...

    def by_name(self, name: str) -> Account | None: ...

    def all(self) -> tuple[Account, ...]: ...

    def erase(self, account_id: str) -> None:
        """Remove the person and their sessions for good."""
        ...

    def open_session(self, session: Session) -> None: ...

    def session(self, token_hash: str) -> Session | None: ...

    def close_session(self, token_hash: str) -> None: ...

    def close_sessions(self, account_id: str) -> None: ...

    def put_link(self, token_hash: str, purpose: str, expires: int) -> None:
        """Remember a one-time link by the hash of its token."""
        ...

    def take_link(self, token_hash: str, now: int) -> str | None:
        """Use a link up: its purpose, or None when it is unknown, used or expired. Atomic."""
        ...


class Lake(Protocol):
    """Telemetry: append-only, partitioned by project and day."""

    def write(self, batch: Batch) -> Written:
        """Durable and queryable when it returns; idempotent by span id and score id.

        Raises:
            TooMany: the writer is behind; come back after `retry_after`.
        """
        ...

    def traces(self, where: SpanFilter, *, limit: int = 50, after: str = "") -> TracePage:
        """Traces that hold at least one matching span, newest first."""
        ...

    def trace(self, project: str, trace_id: str) -> tuple[Span, ...]:
        """All spans of a trace with their content, by start time; empty when there is none."""
        ...

    def metrics(self, query: MetricQuery) -> tuple[MetricRow, ...]:
        """Totals and percentiles from the hourly roll-ups."""
        ...

    def scores(self, project: str, *, trace_id: str = "", name: str = "", limit: int = 100) -> tuple[Score, ...]:
        """Scores, newest first."""
        ...

    def values(self, project: str, field: GroupField, *, limit: int = 100) -> tuple[str, ...]:
        """Distinct values of a field over the recent days, most frequent first; filters offer them."""
        ...

    def partitions(self) -> tuple[Partition, ...]:
        """What is stored, by project and day."""
        ...

    def seal(self, project: str, day: str) -> Partition:
        """Turn a closed day into Parquet; it stays queryable."""
        ...

    def reprice(
        self,
        project: str,
        day: str,
        cost_of: Callable[[Span], int | None],
        *,
        since: int = 0,
        until: int = 0,
        dry_run: bool = False,
    ) -> Repriced:
        """Give a day's model calls that started in `[since, until)` (ns; 0 for no bound) the cost that `cost_of` says.

        Spans, traces and metrics agree at every moment, in a sealed day as well. Repeating it changes nothing more.
        With `dry_run` nothing is changed. Raises NotFound when nothing is stored of the day.
        """
        ...

    def retain(self, project: str, *, before: str) -> int:
        """Drop all partitions of days before `before` (YYYY-MM-DD); how many."""
        ...

    def close(self) -> None: ...


GroupField = Literal["model", "provider", "route", "key", "release", "operation", "error_type", "session", "user"]


class Damage(msgspec.Struct, frozen=True):
    """A blob that is not as it should be."""

    digest: str
    problem: Literal["damaged", "missing", "orphaned", "stray"]
    detail: str


class Blobs(Protocol):
    """Bytes by SHA-256 (`sha256:...`)."""

    def put(self, data: bytes | BinaryIO) -> str:
        """Store atomically and durably; the digest. Storing the same bytes again changes nothing."""
        ...

    def get(self, digest: str) -> bytes:
        """The bytes, verified against the digest. Raises NotFound, or StorageFailed when damaged."""
        ...

    def open(self, digest: str) -> AbstractContextManager[BinaryIO]:
        """A reader for large blobs (not verified as a whole). Raises NotFound."""
        ...

    def has(self, digest: str) -> bool: ...

    def delete(self, digest: str) -> bool: ...

    def digests(self) -> Iterator[str]: ...

    def fsck(self, referenced: Iterable[str] | None = None) -> tuple[Damage, ...]:
        """Everything damaged or stray; with `referenced` also what is missing or orphaned."""
        ...


JobState = Literal["queued", "running", "done", "failed", "cancelled"]


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """A durable workflow as seen from outside. Times are ns since the epoch; `progress` is 0..1."""

    id: str
    name: str
    state: JobState
    project: str
    created: int
    updated: int
    progress: float = 0.0
    step: str = ""
    arguments: dict[str, Any] = {}
    result: dict[str, Any] | None = None
    error: str = ""
    schedule: str = ""
    attempts: int = 0


class JobContext(Protocol):
    """What a workflow function is given."""

    @property
    def id(self) -> str: ...

    @property
    def project(self) -> str:
        """For whom it runs; empty when a schedule started it."""
        ...

    def step(self, name: str, work: Callable[[], Any]) -> Any:
        """Run `work` once: after a crash a finished step gives its stored (JSON) result and does not run again."""
        ...

    def progress(self, fraction: float, note: str = "") -> None:
        """Tell how far it is; also the point at which a cancelled job stops."""
        ...


Workflow = Callable[[JobContext, dict[str, Any]], dict[str, Any]]
"""A durable workflow: registered by name, rebuilt from its name and JSON arguments. Pure but for its steps."""


class Jobs(Protocol):
    """Durable work: what finished is not done twice, what was killed goes on."""

    def start(self, name: str, arguments: dict[str, Any], *, project: str, id: str = "") -> Job:
        """Queue a workflow by name; the same `id` again gives the same job."""
        ...

    def get(self, job_id: str) -> Job: ...

    def list(self, *, project: str = "", state: str = "", name: str = "", limit: int = 50) -> tuple[Job, ...]: ...

    def cancel(self, job_id: str) -> Job: ...

    def resume(self, job_id: str) -> Job:
        """Go on with a cancelled or failed job from its last finished step."""
        ...


class Pointers(Protocol):
    """Follows a name and a label to what they point at now; implemented by `release`, asked by the gateway."""

    def resolve(self, name: str, label: str) -> str | None:
        """The digest, or None when nothing is pointed at."""
        ...


class Secrets(Protocol):
    """Sealed credentials by id. Kept outside the facts, so that a removed credential is really gone."""

    def put(self, secret_id: str, sealed: str) -> None:
        """Keep ciphertext under an id; replaces what was there."""
        ...

    def get(self, secret_id: str) -> str | None:
        """The ciphertext, or None."""
        ...

    def delete(self, secret_id: str) -> None:
        """Destroy it."""
        ...


class Quotas(Protocol):
    """Counters that limits and budgets are held by, shared by all who serve calls.

    Attributes:
        remote: whether an exchange goes over a network, so that it may take long and is kept off the request path.
    """

    remote: bool

    def exchange(self, moves: Sequence[Move], *, ticket: str = "") -> tuple[Share, ...]:
        """Carry out moves on counters of one project, atomically; of what they ask for all or nothing is granted.

        Args:
            moves: at most one for each counter.
            ticket: names the exchange; sent again (because no reply came) it changes nothing and gives the same reply.
                Adapters whose replies cannot be lost need none.

        Raises:
            StorageFailed: nothing is known of the outcome; the same ticket may be sent again.
        """
        ...

    def levels(self, project: str) -> tuple[Level, ...]:
        """How far the project's counters are; those that say nothing any more may be left out."""
        ...

    def sync(self) -> None:
        """Put what is counted where a power loss does not reach it; does nothing where that happens by itself."""
        ...

    def close(self) -> None:
        """Give everything back."""
        ...
