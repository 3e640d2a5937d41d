"""The durable workflows that Detent itself brings: checking what is stored, and keeping it in order."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Final

import msgspec

from detent.app.caching import cache_folder
from detent.app.checking import check_blobs, is_sound
from detent.app.recalculation import RECALCULATE, recalculation
from detent.gateway.cache import AnswerCache
from detent.kernel.clock import DAY, Clock, day_of
from detent.kernel.ports import Blobs, JobContext, Lake, Ledger, Workflow
from detent.kernel.settings import Settings
from detent.store.ledger import read_checkpoints

MAINTENANCE: Final = "maintenance"
SCHEDULES: Final[Mapping[str, str]] = {MAINTENANCE: "17 * * * *"}
"""What runs by itself: workflow name to cron expression (UTC)."""


def workflows(settings: Settings, *, ledger: Ledger, lake: Lake, blobs: Blobs, clock: Clock) -> Mapping[str, Workflow]:
    """All workflows by name."""

    def verify(context: JobContext, _arguments: dict[str, Any]) -> dict[str, Any]:
        """Recompute the whole ledger and compare it with the signed checkpoints."""

        def work() -> dict[str, Any]:
            found = ledger.verify(checkpoints=read_checkpoints(settings.checkpoints))
            return {
                "facts": found.facts,
                "head": found.head,
                "ok": found.ok,
                "findings": [msgspec.to_builtins(finding) for finding in found.findings[:100]],
            }

        context.progress(0.0, "verify")
        result: dict[str, Any] = context.step("verify", work)
        return result

    def seal(context: JobContext, arguments: dict[str, Any]) -> dict[str, Any]:
        """Turn closed days into Parquet: those given as `days`, else all that are old enough."""
        wanted = arguments.get("days")
        before = day_of(clock.now() - settings.storage.seal_after_days * DAY)

        def choose() -> list[list[str]]:
            return [
                [part.project, part.day]
                for part in lake.partitions()
                if not part.sealed and (part.day in wanted if wanted else part.day <= before)
            ]

        chosen = context.step("choose", choose)
        sealed = []
        for number, (project, day) in enumerate(chosen):
            context.progress(number / len(chosen), f"{project} {day}")
            sealed.append(context.step(f"seal {project} {day}", partial(_seal_day, lake, project, day)))
        return {"sealed": sealed}

    def fsck(context: JobContext, _arguments: dict[str, Any]) -> dict[str, Any]:
        """Read every blob and name what is damaged, missing, stray or orphaned."""

        def work() -> dict[str, Any]:
            found = check_blobs(ledger, blobs)
            return {"ok": is_sound(found), "damage": [msgspec.to_builtins(damage) for damage in found[:1000]]}

        context.progress(0.0, "read")
        result: dict[str, Any] = context.step("read", work)
        return result

    def maintain(context: JobContext, arguments: dict[str, Any]) -> dict[str, Any]:
        """What runs every hour: sign a checkpoint, seal closed days, drop days and answers that are too old."""

        def retain() -> int:
            before = day_of(clock.now() - settings.storage.retention_days * DAY)
            projects = {part.project for part in lake.partitions()}
            return sum(lake.retain(project, before=before) for project in sorted(projects))

        context.progress(0.0, "checkpoint")
        checkpoint = context.step("checkpoint", lambda: msgspec.to_builtins(ledger.checkpoint()))
        context.progress(0.2, "retention")
        dropped = context.step("retention", retain)
        context.progress(0.4, "seal")
        sealed = seal(context, arguments)["sealed"]
        cached = context.step("cache", lambda: AnswerCache(cache_folder(settings)).sweep(clock.now()))
        return {"checkpoint": checkpoint, "partitions_dropped": dropped, "sealed": sealed, "cached_bytes": cached}

    return {
        "ledger.verify": verify,
        "lake.seal": seal,
        "blobs.fsck": fsck,
        MAINTENANCE: maintain,
        RECALCULATE: recalculation(ledger, lake),
    }


def _seal_day(lake: Lake, project: str, day: str) -> dict[str, Any]:
    built: dict[str, Any] = msgspec.to_builtins(lake.seal(project, day))
    return built
