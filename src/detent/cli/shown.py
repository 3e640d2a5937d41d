"""Domain types as the JSON that commands give: the same names and units as the API's.

Times are RFC 3339 in UTC, durations milliseconds, money USD. What is secret is not in here.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from detent.gateway.batches.model import Batch, StoredFile
from detent.gateway.model import Budget, Key, Limit, PriceEntry, Provider, Route, Target, Weight
from detent.kernel.clock import iso
from detent.kernel.facts import Fact
from detent.kernel.money import NANO, DatedPrice, Price, write_usd
from detent.kernel.ports import Account, Checkpoint, Job, Verification
from detent.kernel.telemetry import Score, Span, TraceRow

_MILLI: Final = 1_000_000
_PER_MILLION: Final = 1_000_000


def time_of(nanoseconds: int) -> str | None:
    """A time, or nothing for 0."""
    return iso(nanoseconds) if nanoseconds else None


def milliseconds(nanoseconds: int | None) -> float | None:
    """A duration in milliseconds with microsecond figures."""
    return None if nanoseconds is None else round(nanoseconds / _MILLI, 3)


def usd(nano: int | None) -> float | None:
    """An amount in USD; None when no price is known."""
    return None if nano is None else nano / NANO


def key_json(key: Key) -> dict[str, Any]:
    """A key without its token's hash."""
    return {
        "id": key.id,
        "name": key.name,
        "hint": key.hint,
        "permissions": [p.value for p in key.permissions],
        "routes": list(key.routes),
        "created": iso(key.created),
        "expires": time_of(key.expires),
        "revoked": time_of(key.revoked),
        "issuer": str(key.issuer),
    }


def provider_json(provider: Provider) -> dict[str, Any]:
    """A provider; whether it has a credential, not which."""
    return {
        "name": provider.name,
        "url": provider.url,
        "dialect": provider.dialect,
        "flavour": provider.flavour,
        "region": provider.region,
        "api_version": provider.api_version,
        "max_concurrency": provider.max_concurrency,
        "has_credential": bool(provider.secret_id),
        "allow_private": provider.allow_private,
        "changed": time_of(provider.changed),
    }


def target_json(target: Target) -> dict[str, Any]:
    """A route's target."""
    return {"provider": target.provider, "model": target.model, "weight": target.weight}


def route_json(route: Route) -> dict[str, Any]:
    """A route with its targets in order and its rules."""
    shadow = route.shadow
    return {
        "name": route.name,
        "targets": [target_json(target) for target in route.targets],
        "policy": route.policy,
        "fallbacks": [{"route": fallback.route, "on": list(fallback.on)} for fallback in route.fallbacks],
        **{
            name: msgspec.to_builtins(getattr(route, name))
            for name in ("retry", "breaker", "hedge", "timeouts", "queue")
        },
        "sticky": route.sticky,
        "shadow": {"route": shadow.route, "share": shadow.share, "daily_usd": write_usd(shadow.daily_budget)}
        if shadow
        else None,
        "cache": msgspec.to_builtins(route.cache),
        "priority": route.priority,
        "changed": time_of(route.changed),
        "built_in": not route.changed,
    }


def limit_json(limit: Limit) -> dict[str, Any]:
    """A limit."""
    return {
        "name": limit.name,
        "scope": limit.scope,
        "subject": limit.subject,
        "unit": limit.unit,
        "amount": limit.amount,
        "window_seconds": limit.window_seconds,
        "changed": time_of(limit.changed),
    }


def budget_json(budget: Budget) -> dict[str, Any]:
    """A budget; `usd` is exact text."""
    return {
        "name": budget.name,
        "scope": budget.scope,
        "subject": budget.subject,
        "usd": write_usd(budget.amount),
        "period": budget.period,
        "alerts": list(budget.alerts),
        "hard": budget.hard,
        "changed": time_of(budget.changed),
    }


def weight_json(weight: Weight) -> dict[str, Any]:
    """A project's share."""
    return {"project": weight.project, "weight": weight.weight, "changed": time_of(weight.changed)}


def price_json(price: Price) -> dict[str, Any]:
    """USD per million tokens; an image and a request in USD apiece."""

    def million(pico: int | None) -> float | None:
        return None if pico is None else pico / _PER_MILLION

    return {
        "input": million(price.input),
        "output": million(price.output),
        "cached_input": million(price.cached_input),
        "cache_write": million(price.cache_write),
        "reasoning": million(price.reasoning),
        "audio_input": million(price.audio_input),
        "audio_output": million(price.audio_output),
        "image_input": million(price.image_input),
        "image_output": usd(price.image_output),
        "request": usd(price.request),
        "long": {
            "above": price.long.above,
            "input": million(price.long.input),
            "output": million(price.long.output),
            "cached_input": million(price.long.cached_input),
            "cache_write": million(price.long.cache_write),
        }
        if price.long is not None
        else None,
    }


def dated_price_json(dated: DatedPrice) -> dict[str, Any]:
    """A price and since when it holds."""
    return {"effective": iso(dated.effective), "price": price_json(dated.price) if dated.price else None}


def price_entry_json(entry: PriceEntry, *, now: int) -> dict[str, Any]:
    """A project's own prices: what holds now, and all of them by date."""
    held = entry.at(now)
    return {
        "provider": entry.provider,
        "model": entry.model,
        "price": price_json(held) if held else None,
        "history": [dated_price_json(dated) for dated in entry.history],
        "changed": iso(entry.changed),
    }


def span_json(span: Span) -> dict[str, Any]:
    """A span with its content."""
    return {
        "trace_id": span.trace_id,
        "span_id": span.span_id,
        "parent_id": span.parent_id or None,
        "name": span.name,
        "operation": span.operation or None,
        "start": iso(span.start),
        "duration_ms": milliseconds(span.duration),
        "status": span.status,
        "error_type": span.error_type or None,
        "provider": span.provider or None,
        "request_model": span.request_model or None,
        "response_model": span.response_model or None,
        "route": span.route or None,
        "key_id": span.key_id or None,
        "release": span.release or None,
        "session_id": span.session_id or None,
        "user_id": span.user_id or None,
        "input_tokens": span.input_tokens,
        "output_tokens": span.output_tokens,
        "cached_input_tokens": span.cached_input_tokens,
        "reasoning_tokens": span.reasoning_tokens,
        "usage_estimated": span.usage_estimated,
        "cost_usd": usd(span.cost),
        "ttft_ms": milliseconds(span.ttft),
        "finish_reason": span.finish_reason or None,
        "stream": span.stream,
        "http_status": span.http_status or None,
        "attempts": span.attempts,
        "attributes": span.attributes,
        "input": content_json(span.input),
        "output": content_json(span.output),
    }


def content_json(text: str) -> Any:
    """Content as the JSON it is; as text where it is none; None where nothing was kept."""
    if not text:
        return None
    try:
        return msgspec.json.decode(text)
    except msgspec.MsgspecError:
        return text


def trace_json(row: TraceRow) -> dict[str, Any]:
    """A trace in a list."""
    root = row.root
    return {
        "trace_id": row.trace_id,
        "name": root.name,
        "start": iso(root.start),
        "duration_ms": milliseconds(max(row.end - root.start, 0)),
        "status": root.status,
        "error_type": root.error_type or None,
        "model": root.response_model or root.request_model or None,
        "provider": root.provider or None,
        "route": root.route or None,
        "key_id": root.key_id or None,
        "session_id": root.session_id or None,
        "user_id": root.user_id or None,
        "spans": row.spans,
        "errors": row.errors,
        "input_tokens": row.input_tokens,
        "output_tokens": row.output_tokens,
        "cost_usd": usd(row.cost),
        "unpriced": row.unpriced,
        "ttft_ms": milliseconds(root.ttft),
        "snippet": row.snippet or None,
    }


def score_json(score: Score) -> dict[str, Any]:
    """A score."""
    return {
        "id": score.id,
        "trace_id": score.trace_id or None,
        "span_id": score.span_id or None,
        "session_id": score.session_id or None,
        "name": score.name,
        "value": score.value,
        "source": score.source,
        "author": score.author or None,
        "comment": score.comment or None,
        "time": iso(score.time),
    }


def fact_json(fact: Fact) -> dict[str, Any]:
    """A fact with its body."""
    return {
        "position": fact.position,
        "id": fact.id,
        "kind": fact.kind,
        "stream": fact.stream,
        "version": fact.version,
        "actor": str(fact.actor),
        "time": iso(fact.time),
        "reason": fact.reason or None,
        "body": msgspec.to_builtins(fact.body),
        "hash": fact.hash,
    }


def checkpoint_json(checkpoint: Checkpoint) -> dict[str, Any]:
    """A signed checkpoint; `time_ns` is the signed figure."""
    return {
        "size": checkpoint.size,
        "head": checkpoint.head,
        "root": checkpoint.root,
        "time": iso(checkpoint.time),
        "time_ns": checkpoint.time,
        "key_id": checkpoint.key_id,
        "public_key": checkpoint.public_key,
        "signature": checkpoint.signature,
    }


def verification_json(found: Verification) -> dict[str, Any]:
    """What a verification saw."""
    return {
        "ok": found.ok,
        "facts": found.facts,
        "head": found.head,
        "root": found.root,
        "checkpoint": checkpoint_json(found.checkpoint) if found.checkpoint else None,
        "findings": [msgspec.to_builtins(finding) for finding in found.findings],
    }


def job_json(job: Job) -> dict[str, Any]:
    """A job."""
    return {
        "id": job.id,
        "name": job.name,
        "state": job.state,
        "progress": job.progress,
        "step": job.step or None,
        "created": iso(job.created),
        "updated": iso(job.updated),
        "arguments": job.arguments,
        "result": job.result,
        "error": job.error or None,
        "schedule": job.schedule or None,
        "attempts": job.attempts,
    }


def account_json(account: Account) -> dict[str, Any]:
    """A person, without anything of the password."""
    return {
        "id": account.id,
        "name": account.name,
        "role": account.role,
        "disabled": account.disabled,
        "created": time_of(account.created),
    }


def file_json(file: StoredFile) -> dict[str, Any]:
    """A stored file."""
    return {
        "id": file.id,
        "filename": file.filename,
        "purpose": file.purpose,
        "bytes": file.bytes,
        "digest": file.digest,
        "created": iso(file.created),
    }


def batch_json(batch: Batch, metadata: dict[str, str] | None) -> dict[str, Any]:
    """A batch with what its submitter wrote to it."""
    return {
        "id": batch.id,
        "status": batch.status,
        "problem": batch.problem or None,
        "endpoint": batch.endpoint,
        "total": batch.total,
        "completed": batch.completed,
        "failed": batch.failed,
        "input_file": batch.input_file,
        "output_file": batch.output_file or None,
        "error_file": batch.error_file or None,
        "created": iso(batch.created),
        "started": time_of(batch.started),
        "expires": iso(batch.expires),
        "ended": time_of(batch.ended),
        "metadata": metadata,
    }


def page_json(items: list[Any], *, after: str = "") -> dict[str, Any]:
    """A list as every command gives it; `after` continues it where it is not empty."""
    return {"items": items, "after": after or None}
