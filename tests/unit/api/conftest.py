"""Two projects with something of everything in the first, and the real application on real stores."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from detent.api import mount
from detent.app.http import check_routes
from detent.app.platform import Platform, open_platform
from detent.app.web import build
from detent.gateway.model import Target
from detent.kernel.clock import SECOND, FixedClock
from detent.kernel.identity import Actor, Permission, Principal
from detent.kernel.ids import CountedIds
from detent.kernel.money import NANO, Price
from detent.kernel.secret import Secret
from detent.kernel.settings import Settings
from detent.kernel.telemetry import Batch, Span

BASE = "http://127.0.0.1:7401"
TRACE = "a" * 32
SPAN = "b" * 16
EVERYTHING = frozenset(Permission)


@dataclass(frozen=True)
class World:
    """The application, and what stands in project `default`; project `other` is empty."""

    platform: Platform
    app: FastAPI
    client: TestClient
    ids: dict[str, str]

    def principal(self, project: str = "default", permissions: frozenset[Permission] = EVERYTHING) -> Principal:
        return Principal(Actor("operator", "0"), project, permissions)

    def key(self, *permissions: Permission, project: str = "default") -> dict[str, str]:
        """Headers of a new key; with all permissions when none is named."""
        made = self.platform.gateway.mint_key(
            self.principal(project), "test", permissions=frozenset(permissions) or EVERYTHING
        )
        return {"authorization": f"Bearer {made.token.reveal()}"}


def fill(platform: Platform, caller: Principal) -> dict[str, str]:
    """Something of everything in the caller's project; its ids by the name of the path's parameter."""
    key = platform.gateway.mint_key(caller, "support bot")
    platform.gateway.save_provider(caller, "acme", url="https://api.acme.example/v1", credential=Secret("sk-acme-1"))
    platform.gateway.save_route(caller, "support", (Target("acme", "large"),))
    platform.gateway.set_price(caller, Target("acme", "large"), Price(1_000_000, 2_000_000))
    platform.gateway.set_limit(caller, "per-key", scope="key", unit="requests", amount=100)
    platform.gateway.set_budget(caller, "monthly", scope="project", amount=100 * NANO)
    now = platform.clock.now()
    span = Span(
        trace_id=TRACE,
        span_id=SPAN,
        name="chat support",
        operation="chat",
        start=now - SECOND,
        end=now,
        provider="acme",
        request_model="large",
        route="support",
        key_id=key.key.id,
        input_tokens=12,
        output_tokens=34,
        cost=80_000,
        input='[{"role":"user","content":"Where is my parcel?"}]',
        output='{"role":"assistant","content":"On its way."}',
    )
    platform.traces.write(caller, Batch((span,)))
    platform.traces.score(caller, trace_id=TRACE, name="thumbs", value=True, comment="well said", id="score-1")
    job = platform.jobs.start("blobs.fsck", {}, project=caller.project)
    file = platform.files.store(caller, "in.jsonl", "batch", b"{}", 2)
    batch = platform.batches.submit(caller, input_file=file.id, endpoint="/v1/chat/completions")
    account, _link = platform.people.add(caller, "ada", "viewer")
    return {
        "key": key.key.id,
        "job": job.id,
        "file": file.id,
        "batch": batch.id,
        "user": account.id,
        "trace_id": TRACE,
        "name": "acme",
        "route": "support",
        "limit": "per-key",
        "budget": "monthly",
    }


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    home: Path = tmp_path_factory.mktemp("home")
    with open_platform(Settings(home=str(home)), clock=FixedClock(), ids=CountedIds()) as platform:
        app = build(platform, faces=False)
        mount(app, platform)
        check_routes(app)
        ids = fill(platform, platform.access.operator())
        with TestClient(app, base_url=BASE, raise_server_exceptions=False) as client:
            yield World(platform, app, client, ids)
