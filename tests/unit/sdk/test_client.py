"""`detent.Client` against a real control plane: every noun, typed, and errors of the kernel's tree."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

import detent
from detent.api.document import api_routes, describe
from detent.kernel.clock import SECOND
from detent.kernel.errors import (
    BadSettings,
    Conflict,
    DetentError,
    Forbidden,
    InvalidInput,
    NotFound,
    TimedOut,
    TooMany,
    Unauthenticated,
    Unavailable,
    UpstreamFailed,
    every_error,
)
from detent.kernel.telemetry import Batch, Span
from detent.sdk import model
from detent.sdk.model import Target
from detent.sdk.transport import Answer, error_of

TRACE = "a" * 32


@pytest.fixture
def client(server: Any) -> Iterator[detent.Client]:
    with detent.Client(server.url, server.key) as opened:
        yield opened


@pytest.fixture
def traced(server: Any) -> str:
    now = server.platform.clock.now()
    spans = tuple(
        Span(trace_id=f"{n:032x}", span_id=f"{n:016x}", name=f"step {n}", start=now - n * SECOND, end=now, route="many")
        for n in range(1, 6)
    )
    server.platform.traces.write(server.platform.access.operator(), Batch(spans))
    return f"{1:032x}"


def test_keys(client: detent.Client, server: Any) -> None:
    made = client.keys.create("ci", permissions=["traces:read", "keys:read"], expires="2100-01-01")
    assert isinstance(made, model.NewKey)
    assert client.keys.get(made.id).name == "ci"
    with detent.Client(server.url, made.key) as weak:
        assert made.id in {key.id for key in weak.keys.list().items}
        with pytest.raises(Forbidden, match="keys:write"):
            weak.keys.create("more")
    assert client.keys.revoke(made.id, reason="done").state == "revoked"
    with detent.Client(server.url, made.key) as gone, pytest.raises(Unauthenticated):
        gone.keys.list()


def test_providers_routes_models(client: detent.Client) -> None:
    saved = client.providers.save("acme", url="https://api.acme.example/v1", credential="sk-1")
    assert (saved.has_credential, client.providers.get("acme").url) == (True, "https://api.acme.example/v1")
    route = client.routes.save("bot", ["acme/org/large", Target("embedded", "detent-tiny", 2)])
    assert route.targets == (Target("acme", "org/large"), Target("embedded", "detent-tiny", 2))
    client.models.price("acme", "org/large", input="0.5", output="1.25")
    found = {(m.provider, m.model): m for m in client.models.list().items}
    assert found["acme", "org/large"].price == model.Price(input=0.5, output=1.25)
    with pytest.raises(Conflict):
        client.providers.remove("acme")
    client.routes.remove("bot")
    client.providers.remove("acme")
    with pytest.raises(NotFound):
        client.providers.get("acme")
    with pytest.raises(InvalidInput) as caught:
        client.providers.save("acme", url="nonsense")
    assert caught.value.field == "url"
    assert caught.value.hint


def test_traces_and_scores(client: detent.Client, traced: str) -> None:
    assert len(list(client.traces.iterate(route="many"))) == 5
    page = client.traces.list(route="many", limit=2)
    assert len(page.items) == 2
    assert page.after
    rest = client.traces.list(route="many", limit=200, after=page.after)
    assert not {t.trace_id for t in page.items} & {t.trace_id for t in rest.items}
    score = client.score(trace_id=traced, name="thumbs", value=True, comment="good")
    assert client.score(trace_id=traced, name="thumbs", value=False, id=score.id).id == score.id
    detail = client.traces.get(traced)
    assert [(s.name, s.value) for s in detail.scores] == [("thumbs", False)]
    assert [span.name for span in detail.spans] == ["step 1"]
    assert client.scores.list(name="thumbs").items == detail.scores
    assert client.traces.metrics(since="48h", group_by=["route"]) is not None
    assert "many" in client.traces.values("route").items
    with pytest.raises(NotFound):
        client.score(trace_id="f" * 32, name="thumbs", value=True)


def test_jobs(client: detent.Client) -> None:
    job = client.jobs.start("blobs.fsck")
    assert client.jobs.get(job.id).state == "queued"
    assert job.id in {found.id for found in client.jobs.list().items}
    with pytest.raises(TimedOut):
        client.jobs.wait(job.id, timeout=0.05, interval=0.01)
    assert client.jobs.cancel(job.id).state == "cancelled"
    assert client.jobs.wait(job.id).state == "cancelled"
    assert client.jobs.resume(job.id).state == "queued"


def test_audit_users_status(client: detent.Client) -> None:
    first = client.audit.facts(limit=1, oldest_first=True).items[0]
    assert (first.position, first.kind) == (1, "key.minted")
    signed = client.audit.checkpoint()
    verified = client.audit.verify()
    assert verified.ok
    assert verified.checkpoint is not None
    assert verified.checkpoint.size == signed.size
    assert isinstance(client.users.list().items, tuple)
    assert client.status()["ledger"]["kind"] == "sqlite"


def test_one_client_serves_many_threads(client: detent.Client, traced: str) -> None:
    failed: list[BaseException] = []

    def read() -> None:
        try:
            for _ in range(5):
                assert client.traces.get(traced).trace_id == traced
            client.close()
        except BaseException as error:  # noqa: BLE001
            failed.append(error)

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []


def test_the_sdks_types_are_those_of_the_document() -> None:
    document = describe()["components"]["schemas"]
    compared = 0
    for name, kind in inspect.getmembers(model, inspect.isclass):
        schema = document.get({"User": "UserOut"}.get(name, f"{name}Out"))
        if schema is not None and issubclass(kind, msgspec.Struct):
            assert set(kind.__struct_fields__) == set(schema["properties"]), name
            compared += 1
    assert compared >= 14
    assert len(api_routes()) > 30


# When the other side is not as it should be


def open_client(script: Any, **options: Any) -> detent.Client:
    return detent.Client(script.url, "dtk_" + "x" * 43, **options)


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long the client would have waited."""
    slept: list[float] = []
    monkeypatch.setattr("detent.sdk.transport.time.sleep", slept.append)
    return slept


def test_it_tries_again_as_long_as_it_was_told(scripted: Any, waits: list[float]) -> None:
    scripted.say(429, {"error": {"code": "too_many", "message": "Slow down."}}, retry_after="7")
    scripted.say(503, {"error": {"code": "unavailable", "message": "Not now."}})
    scripted.say(200, {"items": [], "after": None})
    with open_client(scripted) as client:
        assert client.keys.list().items == ()
    assert waits[0] == 7
    assert 0.1 <= waits[1] <= 0.4
    assert {asked[2]["authorization"] for asked in scripted.asked} == {"Bearer dtk_" + "x" * 43}


def test_it_gives_up(scripted: Any, waits: list[float]) -> None:
    scripted.say(503, {"error": {"code": "unavailable", "message": "Not now.", "hint": "Later."}})
    with open_client(scripted, retries=2) as client, pytest.raises(Unavailable, match="Not now") as caught:
        client.keys.list()
    assert len(scripted.asked) == 3
    assert caught.value.hint == "Later."
    assert waits[1] > waits[0] / 2


def test_it_does_not_wait_for_ever(scripted: Any, waits: list[float]) -> None:
    scripted.say(429, {"error": {"code": "too_many", "message": "Slow down."}}, retry_after="86400")
    with open_client(scripted) as client, pytest.raises(TooMany) as caught:
        client.keys.list()
    assert (waits, caught.value.retry_after) == ([], 86400)


def test_what_may_do_harm_is_not_repeated(scripted: Any, waits: list[float]) -> None:
    scripted.say(503, {"error": {"code": "unavailable", "message": "Not now."}})
    with open_client(scripted) as client, pytest.raises(Unavailable):
        client.keys.create("one")
    assert len(scripted.asked) == 1


def test_a_score_is_sent_again_with_the_same_id(scripted: Any, waits: list[float]) -> None:
    scripted.say(502, {"error": {"code": "upstream_failed", "message": "Broken."}})
    scripted.say(201, {"id": "x", "name": "thumbs", "value": True, "source": "user", "time": "2026-01-01T00:00:00Z"})
    with open_client(scripted) as client:
        client.score(trace_id=TRACE, name="thumbs", value=True)
    bodies = [msgspec.json.decode(asked[3]) for asked in scripted.asked]
    assert bodies[0] == bodies[1]
    assert bodies[0]["id"]


def test_mistakes_are_not_repeated(scripted: Any, waits: list[float]) -> None:
    scripted.say(404, {"error": {"code": "not_found", "message": "No."}})
    with open_client(scripted) as client, pytest.raises(NotFound):
        client.keys.get("x")
    assert (len(scripted.asked), waits) == (1, [])


def test_a_connection_that_was_closed_meanwhile(scripted: Any) -> None:
    scripted.say(200, {"items": [], "after": None}, connection="close")
    with open_client(scripted, retries=0) as client:
        for _ in range(3):
            client.keys.list()
    assert len(scripted.asked) == 3


def test_nobody_there(free_port: int, waits: list[float]) -> None:
    with detent.Client(f"http://127.0.0.1:{free_port}", "k", retries=1) as client, pytest.raises(Unavailable) as caught:
        client.keys.list()
    assert "detent up" in caught.value.hint


def test_no_answer_in_time(scripted: Any) -> None:
    hold = threading.Event()
    scripted.answers.append(lambda: hold.wait(5) and None)
    with open_client(scripted, timeout=0.1, retries=0) as client, pytest.raises(TimedOut):
        client.keys.list()
    hold.set()


def test_answers_that_are_none(scripted: Any) -> None:
    scripted.say(200, {"items": [{"what": 1}]})
    with open_client(scripted) as client, pytest.raises(UpstreamFailed):
        client.keys.list()
    assert isinstance(error_of(Answer(418, {}, b"<html>")), DetentError)
    assert isinstance(error_of(Answer(301, {}, b"")), DetentError)


def test_every_error_survives_the_way() -> None:
    for kind in every_error():
        body = msgspec.json.encode(kind("What.", hint="Next.", field="f").as_dict())
        found = error_of(Answer(kind.status, {"retry-after": "3"}, body))
        assert (type(found).code, found.message, found.hint, found.field) == (kind.code, "What.", "Next.", "f")
        assert found.retry_after == 3


def test_settings(monkeypatch: pytest.MonkeyPatch, server: Any) -> None:
    with pytest.raises(BadSettings, match="no key"):
        detent.Client(server.url)
    for url in ("nonsense", "ftp://x", "http://", "http://a:b@c", "http://x?y"):
        with pytest.raises(BadSettings):
            detent.Client(url, "k")
    monkeypatch.setenv("DETENT_URL", server.url)
    monkeypatch.setenv("DETENT_KEY", server.key)
    with detent.Client() as client:
        assert client.keys.list().items
    assert server.key not in repr(vars(client)) + repr(vars(client._caller.transport))
