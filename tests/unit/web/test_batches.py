"""Batches and files in the console: begun, watched, cancelled, downloaded, removed."""

from __future__ import annotations

import pytest

from detent.kernel.identity import Principal

from .conftest import HOSTILE, World

LINE = b'{"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": {"model": "support-bot"}}\n'


def engineer(world: World) -> Principal:
    return world.platform.access.by_cookie(world.people["engineer"].cookie.reveal()).principal


def stored(world: World, name: str = "calls.jsonl", purpose: str = "batch") -> str:
    return world.platform.files.store(engineer(world), name, purpose, LINE, len(LINE)).id


def post(world: World, path: str, **form: str) -> tuple[int, str]:
    answer = world.client("engineer").post(path, data={"csrf": world.csrf("engineer"), **form})
    return answer.status_code, answer.headers.get("location", "") or answer.text


def test_a_batch_is_begun_and_cancelled(world: World) -> None:
    file_id = stored(world)
    status, where = post(
        world, "/batches", input_file_id=file_id, endpoint="/v1/chat/completions", completion_window="2d"
    )
    assert status == 303
    path, _mark, said = where.partition("?")
    assert said == "said=batch-started"
    client = world.client("engineer")
    shown = client.get(f"{path}.json").json()
    account = world.people["engineer"].account
    assert (shown["window_seconds"], shown["batch"]["active"], shown["batch"]["input_file"]) == (172_800, True, file_id)
    assert shown["batch"]["whose"] == account.name
    page = client.get(path).text
    assert f'href="/v1/files/{file_id}/content"' in page
    assert f"/traces?session={path.rsplit('/', 1)[1]}" in page
    kept = post(world, f"/files/{file_id}/remove")
    assert (kept[0], "read by the batch" in kept[1]) == (409, True)
    assert post(world, f"{path}/cancel") == (303, f"{path}?said=batch-cancelled")
    assert client.get(f"{path}.json").json()["batch"]["status"] == "cancelling"
    assert "Cancel…" not in client.get(path).text
    listed = client.get("/batches.json").json()
    assert listed["active"] is True
    assert listed["batches"][0]["id"] == path.rsplit("/", 1)[1]


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"completion_window": "soon"}, "completion_window"),
        ({"completion_window": "99d"}, "completion_window"),
        ({"endpoint": "/v1/nothing"}, "endpoint"),
        ({"input_file_id": ""}, "input_file_id"),
    ],
)
def test_a_mistake_is_told_at_its_field(world: World, changed: dict[str, str], field: str) -> None:
    form = {"input_file_id": stored(world), "endpoint": "/v1/embeddings", "completion_window": "24h", **changed}
    status, text = post(world, "/batches", **form)
    assert status == 400
    assert f'id="wrong-{field}"' in text


def test_files_are_downloaded_and_removed(world: World) -> None:
    file_id = stored(world, "notes.txt", "user_data")
    client = world.client("engineer")
    found = next(f for f in client.get("/batches.json").json()["files"] if f["id"] == file_id)
    assert (found["filename"], found["bytes"]) == ("notes.txt", len(LINE))
    assert f'value="{file_id}"' not in client.get("/batches").text, "a batch cannot read it"
    assert f"{file_id},notes.txt,user_data,{len(LINE)}," in client.get("/batches.csv?table=files").text
    assert post(world, f"/files/{file_id}/remove") == (303, "/batches?said=file-removed")
    assert file_id not in client.get("/batches").text
    assert post(world, f"/files/{file_id}/remove")[0] == 404


def test_who_may_not_call_sees_none_of_it(world: World) -> None:
    for role in ("viewer", "reviewer", "auditor"):
        for path in ("/batches", f"/batches/{world.batch}", "/batches.csv"):
            assert world.client(role).get(path).status_code == 403
        assert "/batches" not in world.client(role).get("/routes").text
    assert world.client("engineer").get("/batches/batch_nothing").status_code == 404


def test_what_its_sender_wrote_is_only_text(world: World) -> None:
    page = world.client("engineer").get(f"/batches/{world.batch}").text
    assert HOSTILE[0] not in page
    assert HOSTILE[1] not in page
    assert "&lt;script&gt;alert(1)" in page
