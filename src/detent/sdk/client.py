"""`detent.Client`: everything the control plane can do, typed.

with detent.Client() as client:
    made = client.keys.create("support bot")
    client.score(trace_id=trace_id, name="thumbs", value=True)
    for trace in client.traces.iterate(route="support", since="2026-03-01"):
        ...
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Literal, Self, TypeVar

import msgspec

from detent.kernel.errors import BadSettings, TimedOut, UpstreamFailed
from detent.kernel.ids import UuidV7
from detent.kernel.secret import Secret
from detent.sdk.model import (
    Checkpoint,
    Fact,
    Job,
    Key,
    MetricRow,
    Model,
    NewKey,
    Page,
    PriceEntry,
    Provider,
    Route,
    Score,
    Target,
    Trace,
    TraceDetail,
    User,
    Verification,
)
from detent.sdk.transport import Transport, segment

T = TypeVar("T")
_API: Final = "/api/v1"
_ENDED: Final = frozenset({"done", "failed", "cancelled"})


class Client:
    """A connection to one Detent. Safe to share between threads.

    Args:
        url: the control plane; else `DETENT_URL`, else `http://127.0.0.1:7401`.
        key: a virtual key; else `DETENT_KEY`.
        timeout: seconds for one try.
        retries: how often a call that can do no harm is repeated.

    Raises:
        BadSettings: there is no key, or the address is no URL.
    """

    def __init__(
        self, url: str | None = None, key: str | Secret | None = None, *, timeout: float = 30.0, retries: int = 3
    ) -> None:
        address = url or os.environ.get("DETENT_URL") or "http://127.0.0.1:7401"
        secret = key if isinstance(key, Secret) else Secret((key or os.environ.get("DETENT_KEY") or "").strip())
        if not secret:
            raise BadSettings(
                "There is no key to call Detent with.",
                hint="Set DETENT_KEY, or give `key=`; make one with `detent keys create --name NAME --admin`.",
                field="key",
            )
        caller = _Caller(Transport(address, secret, timeout=timeout, retries=retries))
        self._caller = caller
        self.keys = Keys(caller)
        self.providers = Providers(caller)
        self.routes = Routes(caller)
        self.models = Models(caller)
        self.traces = Traces(caller)
        self.scores = Scores(caller)
        self.jobs = Jobs(caller)
        self.audit = Audit(caller)
        self.users = Users(caller)

    def score(
        self,
        *,
        trace_id: str,
        name: str,
        value: bool | float | str,
        span_id: str = "",
        comment: str = "",
        source: Literal["user", "reviewer", "code", "judge"] = "user",
        id: str = "",
    ) -> Score:
        """Judge a trace, or one span of it. The same `id` again replaces the score."""
        return self.scores.add(
            trace_id=trace_id, name=name, value=value, span_id=span_id, comment=comment, source=source, id=id
        )

    def status(self) -> dict[str, Any]:
        """What runs, where, and how it is."""
        return self._caller.get("/status", dict[str, Any])

    def close(self) -> None:
        """Close this thread's connection."""
        self._caller.transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Caller:
    """Calls with typed answers."""

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        self.ids = UuidV7()

    def get(self, path: str, kind: type[T], query: Mapping[str, Any] | None = None) -> T:
        return self._typed(self.transport.call("GET", _API + path, query=query).body, kind)

    def send(
        self, method: str, path: str, kind: type[T], body: Any = None, *, query: Mapping[str, Any] | None = None,
        repeatable: bool | None = None,
    ) -> T:  # fmt: skip
        answer = self.transport.call(method, _API + path, body=body, query=query, repeatable=repeatable)
        return self._typed(answer.body, kind)

    @staticmethod
    def _typed(body: bytes, kind: type[T]) -> T:
        try:
            return msgspec.json.decode(body, type=kind)
        except msgspec.MsgspecError as error:
            raise UpstreamFailed(
                f"The answer cannot be read: {error}.", hint="Use an SDK of the server's version."
            ) from None


class _Nouns:
    def __init__(self, caller: _Caller) -> None:
        self._caller = caller


class Keys(_Nouns):
    """Virtual keys."""

    def create(
        self,
        name: str,
        *,
        permissions: Sequence[str] = ("gateway:call",),
        routes: Sequence[str] = (),
        expires: str | None = None,
    ) -> NewKey:
        """Make a key; its token is in the answer, once. It gets at most the rights of the key that asks."""
        body = {"name": name, "permissions": list(permissions), "routes": list(routes), "expires": expires}
        return self._caller.send("POST", "/keys", NewKey, body)

    def list(self, *, all: bool = False) -> Page[Key]:
        """The keys, newest first; with `all` also those that are revoked or expired."""
        return self._caller.get("/keys", Page[Key], {"all": all or None})

    def get(self, id: str) -> Key:
        """One key."""
        return self._caller.get(f"/keys/{segment(id)}", Key)

    def revoke(self, id: str, *, reason: str = "") -> Key:
        """Stop a key for good."""
        return self._caller.send("DELETE", f"/keys/{segment(id)}", Key, query={"reason": reason})


class Providers(_Nouns):
    """Those who serve models."""

    def list(self) -> Page[Provider]:
        """All providers by name."""
        return self._caller.get("/providers", Page[Provider])

    def get(self, name: str) -> Provider:
        """One provider."""
        return self._caller.get(f"/providers/{segment(name)}", Provider)

    def save(
        self, name: str, *, url: str, credential: str | Secret | None = None, allow_private: bool = False
    ) -> Provider:
        """Add or change a provider. Without a credential the stored one stays, if the host is the same."""
        secret = credential.reveal() if isinstance(credential, Secret) else credential
        body = {"url": url, "credential": secret, "allow_private": allow_private}
        return self._caller.send("PUT", f"/providers/{segment(name)}", Provider, body)

    def remove(self, name: str, *, reason: str = "") -> None:
        """Remove a provider and destroy its credential."""
        self._caller.send("DELETE", f"/providers/{segment(name)}", dict[str, Any], query={"reason": reason})


class Routes(_Nouns):
    """Names that applications call."""

    def list(self) -> Page[Route]:
        """All routes by name."""
        return self._caller.get("/routes", Page[Route])

    def get(self, name: str) -> Route:
        """One route."""
        return self._caller.get(f"/routes/{segment(name)}", Route)

    def save(self, name: str, targets: Sequence[Target | str]) -> Route:
        """Add or change a route; targets in order, as `Target` or `PROVIDER/MODEL`."""
        body = {"targets": [_target(target) for target in targets]}
        return self._caller.send("PUT", f"/routes/{segment(name)}", Route, body)

    def remove(self, name: str, *, reason: str = "") -> None:
        """Remove a route."""
        self._caller.send("DELETE", f"/routes/{segment(name)}", dict[str, Any], query={"reason": reason})


class Models(_Nouns):
    """Models that can be reached, and their prices."""

    def list(self) -> Page[Model]:
        """The models behind the routes."""
        return self._caller.get("/models", Page[Model])

    def price(
        self,
        provider: str,
        model: str,
        *,
        input: str,
        output: str,
        cached_input: str | None = None,
        cache_write: str | None = None,
        effective: str = "",
    ) -> PriceEntry:
        """Set your own price, in USD per million tokens as text (`"0.15"`), from now or from a date (RFC 3339) on."""
        body = {"input": input, "output": output, "cached_input": cached_input, "cache_write": cache_write}
        if effective:
            body["effective"] = effective
        return self._caller.send("PUT", f"/prices/{segment(provider)}/{segment(model)}", PriceEntry, body)


class Traces(_Nouns):
    """Calls as they happened.

    The filters are those of the API: `since`, `until` (RFC 3339, or `15m`, `2h`, `7d` ago), `text`, `status`,
    `operation`, `provider`, `model`, `route`, `key_id`, `release`, `session_id`, `user_id`, `error_type`,
    `min_duration_ms`, `min_cost_usd`, and `attribute` as a list of `NAME=VALUE`.
    """

    def list(self, *, limit: int = 50, after: str = "", **filters: Any) -> Page[Trace]:
        """Traces, newest first."""
        return self._caller.get("/traces", Page[Trace], {"limit": limit, "after": after, **filters})

    def search(self, text: str, *, limit: int = 50, after: str = "", **filters: Any) -> Page[Trace]:
        """Traces with these words in what was asked or answered."""
        return self.list(limit=limit, after=after, text=text, **filters)

    def iterate(self, **filters: Any) -> Iterator[Trace]:
        """All traces that match, newest first, a page at a time."""
        after = ""
        while True:
            page = self.list(limit=200, after=after, **filters)
            yield from page.items
            if not page.after:
                return
            after = page.after

    def get(self, trace_id: str) -> TraceDetail:
        """One trace with its spans and scores."""
        return self._caller.get(f"/traces/{segment(trace_id)}", TraceDetail)

    def metrics(
        self, *, since: str = "24h", until: str = "", bucket_hours: int = 0, group_by: Sequence[str] = ()
    ) -> Page[MetricRow]:
        """Totals and percentiles of calls, per bucket of time and group (`model`, `provider`, `route`, `key`...)."""
        query = {"since": since, "until": until, "bucket_hours": bucket_hours, "group_by": [*group_by]}
        return self._caller.get("/metrics", Page[MetricRow], query)

    def values(self, field: str) -> Page[str]:
        """What a field held lately, most frequent first."""
        return self._caller.get(f"/values/{segment(field)}", Page[str])


class Scores(_Nouns):
    """Judgements."""

    def list(self, *, trace_id: str = "", name: str = "", limit: int = 100) -> Page[Score]:
        """Scores, newest first."""
        return self._caller.get("/scores", Page[Score], {"trace_id": trace_id, "name": name, "limit": limit})

    def add(
        self,
        *,
        trace_id: str,
        name: str,
        value: bool | float | str,
        span_id: str = "",
        comment: str = "",
        source: Literal["user", "reviewer", "code", "judge"] = "user",
        id: str = "",
    ) -> Score:
        """Judge a trace. It has an id before it is sent, so that trying again makes no second one."""
        body = {
            "id": id or self._caller.ids.new(),
            "name": name,
            "value": value,
            "span_id": span_id,
            "comment": comment,
            "source": source,
        }
        return self._caller.send("POST", f"/traces/{segment(trace_id)}/scores", Score, body, repeatable=True)


class Jobs(_Nouns):
    """Durable work."""

    def list(self, *, state: str = "", name: str = "", limit: int = 50) -> Page[Job]:
        """Jobs, newest first."""
        return self._caller.get("/jobs", Page[Job], {"state": state, "name": name, "limit": limit})

    def get(self, id: str) -> Job:
        """One job."""
        return self._caller.get(f"/jobs/{segment(id)}", Job)

    def start(self, name: str, arguments: Mapping[str, Any] | None = None, *, id: str = "") -> Job:
        """Queue a workflow by name; the same `id` again gives the same job."""
        body = {"id": id or self._caller.ids.new(), "name": name, "arguments": dict(arguments or {})}
        return self._caller.send("POST", "/jobs", Job, body, repeatable=True)

    def cancel(self, id: str) -> Job:
        """Stop a job at its next step."""
        return self._caller.send("POST", f"/jobs/{segment(id)}/cancel", Job, repeatable=True)

    def resume(self, id: str) -> Job:
        """Go on with a cancelled or failed job."""
        return self._caller.send("POST", f"/jobs/{segment(id)}/resume", Job)

    def wait(self, id: str, *, timeout: float = 3600.0, interval: float = 0.5) -> Job:
        """Wait until a job has ended.

        Raises:
            TimedOut: it had not after `timeout` seconds; it goes on all the same.
        """
        deadline = time.monotonic() + timeout
        while True:
            job = self.get(id)
            if job.state in _ENDED:
                return job
            if time.monotonic() >= deadline:
                raise TimedOut(f"The job {id} is still {job.state}.", hint="Wait longer, or look with `detent jobs`.")
            time.sleep(interval)


class Audit(_Nouns):
    """The ledger."""

    def facts(
        self, *, after: int = 0, limit: int = 100, kind: str = "", stream: str = "", actor: str = "",
        oldest_first: bool = False,
    ) -> Page[Fact]:  # fmt: skip
        """Facts, newest first."""
        query = {"after": after or None, "limit": limit, "kind": kind, "stream": stream, "actor": actor,
                 "oldest_first": oldest_first or None}  # fmt: skip
        return self._caller.get("/audit/facts", Page[Fact], query)

    def verify(self) -> Verification:
        """Recompute the whole ledger and compare it with the signed checkpoints."""
        return self._caller.send("POST", "/audit/verify", Verification, repeatable=True)

    def checkpoint(self) -> Checkpoint:
        """Sign where the chain stands."""
        return self._caller.send("POST", "/audit/checkpoint", Checkpoint, repeatable=True)


class Users(_Nouns):
    """People who sign in to the console."""

    def list(self) -> Page[User]:
        """Everybody by name."""
        return self._caller.get("/users", Page[User])


def _target(target: Target | str) -> dict[str, Any]:
    if isinstance(target, Target):
        return {"provider": target.provider, "model": target.model, "weight": target.weight}
    provider, _, model = target.partition("/")
    return {"provider": provider, "model": model}
