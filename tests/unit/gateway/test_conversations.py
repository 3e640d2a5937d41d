"""Stored responses: kept by project, found by id, forgotten in time, harmless whatever they are asked for."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from detent.gateway.conversations import Conversations
from detent.gateway.dialects.responses import ResponsesAsked, ResponsesClient
from detent.gateway.errors import UnknownResponse
from detent.kernel.chat import ChatAnswer, Message, TextPart
from detent.kernel.errors import InvalidInput, StorageFailed

CLIENT = ResponsesClient()
NOW = 1_700_000_000.0
DAY = 24 * 3600


def read(**body: Any) -> ResponsesAsked:
    return CLIENT.read(json.dumps({"model": "m", "input": "Hi", **body}).encode(), max_depth=64)


def say(
    store: Conversations, id: str, text: str, *, project: str = "p", now: float = NOW, **body: Any
) -> ResponsesAsked:
    """One turn: read, expand, answer, save."""
    asked = read(**body)
    store.expand(project, asked, now=now)
    asked.response_id = id
    raw = CLIENT.write_answer(asked, ChatAnswer("", "m", Message("assistant", (TextPart(text),)), "stop"))
    store.save(project, asked, raw, now=now)
    return asked


@pytest.fixture
def store(tmp_path: Path) -> Conversations:
    return Conversations(tmp_path / "c")


def texts(asked: ResponsesAsked) -> list[str]:
    return [message.text for message in asked.neutral().messages]


def test_a_conversation_goes_on_and_may_fork(store: Conversations) -> None:
    say(store, "resp_1", "one")
    say(store, "resp_2", "two", input="And?", previous_response_id="resp_1")
    left = say(store, "resp_3", "three", input="Left", previous_response_id="resp_2")
    right = say(store, "resp_4", "four", input="Right", previous_response_id="resp_2")
    assert texts(left) == ["Hi", "one", "And?", "two", "Left"]
    assert texts(right) == ["Hi", "one", "And?", "two", "Right"]


def test_instructions_are_not_carried_over(store: Conversations) -> None:
    say(store, "resp_1", "one", instructions="Be brief.")
    assert texts(say(store, "resp_2", "two", input="And?", previous_response_id="resp_1")) == ["Hi", "one", "And?"]


def test_another_project_knows_nothing_of_it(store: Conversations) -> None:
    say(store, "resp_1", "one")
    for ask in (store.get, store.delete, store.input_items):
        with pytest.raises(UnknownResponse):
            ask("other", "resp_1", now=NOW)
    with pytest.raises(UnknownResponse) as caught:
        say(store, "resp_2", "two", project="other", previous_response_id="resp_1")
    assert (caught.value.status, caught.value.field) == (404, "previous_response_id")
    item = json.loads(store.get("p", "resp_1", now=NOW))["output"][0]["id"]
    with pytest.raises(UnknownResponse):
        say(store, "resp_2", "two", project="other", input=[{"type": "item_reference", "id": item}])


def test_a_deleted_response_is_gone_with_its_bytes(store: Conversations, tmp_path: Path) -> None:
    say(store, "resp_1", "a secret")
    item = json.loads(store.get("p", "resp_1", now=NOW))["output"][0]["id"]
    assert json.loads(store.delete("p", "resp_1", now=NOW)) == {"id": "resp_1", "object": "response", "deleted": True}
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    with pytest.raises(UnknownResponse):
        store.get("p", "resp_1", now=NOW)
    with pytest.raises(UnknownResponse, match="Item with id"):
        say(store, "resp_2", "two", input=[{"type": "item_reference", "id": item}])


def test_what_is_not_to_be_stored_leaves_nothing(store: Conversations, tmp_path: Path) -> None:
    asked = read(store=False)
    asked.response_id = "resp_1"
    raw = CLIENT.write_answer(asked, ChatAnswer("", "m", Message("assistant", (TextPart("one"),)), "stop"))
    assert store.save("p", asked, raw, now=NOW) is False
    assert list(tmp_path.iterdir()) == []
    asked = read()
    assert store.save("p", asked, b'{"error":{"message":"no answer"}}', now=NOW) is False


def test_time(store: Conversations) -> None:
    say(store, "resp_1", "one")
    say(store, "resp_2", "two", previous_response_id="resp_1", now=NOW + 20 * DAY)  # which keeps the first young
    assert store.get("p", "resp_1", now=NOW + 49 * DAY)
    with pytest.raises(UnknownResponse):
        store.get("p", "resp_2", now=NOW + 51 * DAY)


def test_a_sweep_takes_the_old_and_the_longest_unused(tmp_path: Path) -> None:
    store = Conversations(tmp_path / "c", max_bytes=20_000)
    say(store, "resp_old", "x", now=NOW - 31 * DAY)
    for number in range(5):
        say(store, f"resp_{number}", "x" * 4000, now=NOW + number)
    swept = store.sweep(now=NOW + 10)
    assert swept.size <= 20_000
    assert sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) <= 20_000
    assert store.get("p", "resp_4", now=NOW + 10)
    for gone in ("resp_old", "resp_0"):
        with pytest.raises(UnknownResponse):
            store.get("p", gone, now=NOW + 10)


def test_saving_sweeps_by_itself(tmp_path: Path) -> None:
    store = Conversations(tmp_path / "c", max_bytes=50_000)
    for number in range(40):
        say(store, f"resp_{number}", "x" * 4000, now=NOW + number)
    assert sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) <= 60_000


@pytest.mark.parametrize(
    "id", ["../../etc/passwd", "/etc/passwd", "a\0b", "." * 200, "x" * 256, "\ud800", "é", "%2e%2e", "", " "]
)
def test_hostile_ids_are_ids(store: Conversations, tmp_path: Path, id: str) -> None:
    with pytest.raises(UnknownResponse):
        store.get("p", id, now=NOW)
    with pytest.raises(UnknownResponse):
        store.delete(id, id, now=NOW)
    asked = read()
    raw = json.dumps({"id": id, "output": [{"id": id, "type": "message"}]}).encode()
    if store.save(id, asked, raw, now=NOW):
        assert store.get(id, id, now=NOW) == raw
    assert all(path.resolve().is_relative_to(tmp_path / "c") for path in tmp_path.rglob("*"))


def test_damaged_files_are_unknown_responses(store: Conversations, tmp_path: Path) -> None:
    say(store, "resp_1", "one")
    for path in tmp_path.rglob("*"):
        if path.is_file():
            path.write_bytes(b'{"id":')
    with pytest.raises(UnknownResponse):
        store.get("p", "resp_1", now=NOW)


def test_files_are_for_their_owner_only(store: Conversations, tmp_path: Path) -> None:
    say(store, "resp_1", "one")
    assert {path.stat().st_mode & 0o777 for path in tmp_path.rglob("*") if path.is_file()} == {0o600}


def test_a_disk_that_takes_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageFailed) as caught:
        say(Conversations(tmp_path / "file" / "c"), "resp_1", "one")
    assert "store: false" in caught.value.hint


def test_input_items_page_by_page(store: Conversations) -> None:
    say(store, "resp_1", "one", input=[{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}])
    say(
        store,
        "resp_2",
        "two",
        previous_response_id="resp_1",
        input=[{"type": "function_call_output", "call_id": "c", "output": "d"}],
    )
    whole = json.loads(store.input_items("p", "resp_2", now=NOW, order="asc"))
    assert [(item["type"], item["id"][:4]) for item in whole["data"]] == [
        ("message", "msg_"),
        ("message", "msg_"),
        ("message", "msg_"),
        ("function_call_output", "item"),
    ]
    assert whole["data"][0]["content"] == [{"type": "input_text", "text": "a"}]
    assert whole["data"][1]["content"] == [{"type": "output_text", "text": "b", "annotations": []}]
    assert (whole["has_more"], whole["first_id"]) == (False, whole["data"][0]["id"])
    names = [item["id"] for item in whole["data"]]
    seen: list[str] = []
    after = ""
    while True:
        page = json.loads(store.input_items("p", "resp_2", now=NOW, limit=3, after=after))
        seen += [item["id"] for item in page["data"]]
        after = page["last_id"]
        if not page["has_more"]:
            break
    assert seen == names[::-1]
    for wrong in ({"limit": 0}, {"limit": 101}, {"after": "nobody"}):
        with pytest.raises(InvalidInput):
            store.input_items("p", "resp_2", now=NOW, **wrong)  # type: ignore[arg-type]


def test_a_row_that_never_ends_is_refused(store: Conversations, tmp_path: Path) -> None:
    asked = read()
    asked.head.previous_response_id = "resp_1"
    raw = b'{"id":"resp_1","output":[]}'
    assert store.save("p", asked, raw, now=NOW)
    with pytest.raises(InvalidInput, match="longer than"):
        store.expand("p", read(previous_response_id="resp_1"), now=NOW)


def test_several_writers_at_once(tmp_path: Path) -> None:
    """Each worker has a store of its own over the same folder."""
    failed: list[BaseException] = []

    def work(worker: int) -> None:
        store = Conversations(tmp_path / "c", max_bytes=1)  # every save sweeps
        try:
            for number in range(20):
                say(store, f"resp_{number}", "x" * 100 * worker)
        except BaseException as error:  # noqa: BLE001
            failed.append(error)

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
