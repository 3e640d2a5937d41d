"""The answer cache: what is the same request, what is given again and to whom, and what lies on the disk."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detent.gateway.cache import (
    Answer,
    AnswerCache,
    HashedNgrams,
    Looked,
    Question,
    Recorder,
    Wish,
    hit_attributes,
    hit_headers,
    wish_of,
)
from detent.gateway.cache.likeness import guard_of, split, told_apart
from detent.gateway.cache.model import NOTHING
from detent.gateway.cache.store import read_file, write_file
from detent.gateway.model import CachePolicy
from detent.kernel.chat import Usage
from detent.kernel.clock import SECOND

NOW = 1_800_000_000 * SECOND
EXACT = CachePolicy("exact", ttl_seconds=60)
SEMANTIC = CachePolicy("semantic", ttl_seconds=60)
ANSWER = Answer(
    "text/event-stream",
    (b"data: one\n\n", b"data: [DONE]\n\n"),
    usage=Usage(100, 20),
    cost=5000,
    provider="p",
    model="m",
    finish_reason="stop",
)


def question(body: Any = None, **fields: Any) -> Question:
    raw = body if isinstance(body, bytes) else json.dumps(chat("hello") if body is None else body).encode()
    defaults: dict[str, Any] = {"project": "a", "route": "r", "version": 1, "dialect": "openai"}
    return Question(**{**defaults, "body": raw, **fields})


def chat(text: Any, **fields: Any) -> dict[str, Any]:
    return {
        "model": "r",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": text}],
        **fields,
    }


@pytest.fixture
def cache(tmp_path: Path) -> AnswerCache:
    return AnswerCache(tmp_path / "cache")


def look(
    cache: AnswerCache, asked: Question, policy: CachePolicy = EXACT, wish: Wish | None = None, now: int = NOW
) -> Looked:
    return cache.look(asked, policy, wish or Wish(), now)


def kept(
    cache: AnswerCache, asked: Question | None = None, policy: CachePolicy = EXACT, answer: Answer = ANSWER
) -> None:
    assert cache.keep(look(cache, asked or question(), policy), answer, NOW)


# What is the same request


@pytest.mark.parametrize(
    "other",
    [
        chat("hello", user="u", metadata={"a": "b"}),
        chat("hello", store=True, service_tier="flex", prompt_cache_key="k", safety_identifier="s"),
        dict(reversed(chat("hello").items())),
        chat("hello", stream=False),
        json.dumps(chat("hello"), indent=3).encode(),
    ],
)
def test_what_does_not_change_the_answer_does_not_change_the_request(cache: AnswerCache, other: Any) -> None:
    kept(cache)
    found = look(cache, question(other)).hit
    assert found is not None
    assert found.answer == ANSWER
    assert (found.kind, found.saved_usage, found.saved_cost) == ("exact", Usage(100, 20), 5000)


@pytest.mark.parametrize(
    "other",
    [
        question(project="b"),
        question(route="s"),
        question(project="ar", route=""),
        question(version=2),
        question(dialect="responses"),
        question(headers=b"beta"),
        question(chat("hello ")),
        question(chat("hello", temperature=0.5)),
        question(chat("hello", n=2)),
        question(chat("hello", unknown_field=1)),
        question(chat("hello", tools=[{"type": "function", "function": {"name": "f"}}])),
        question(chat("hello", stream=True)),
        question(chat([{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}])),
    ],
)
def test_another_request_gets_nothing(cache: AnswerCache, other: Question) -> None:
    kept(cache, policy=SEMANTIC)
    assert look(cache, other).hit is None


def test_a_stream_is_another_answer_and_so_is_one_with_usage(cache: AnswerCache) -> None:
    bodies = [
        chat("hello", **fields)
        for fields in ({}, {"stream": True}, {"stream": True, "stream_options": {"include_usage": True}})
    ]
    for number, body in enumerate(bodies):
        kept(cache, question(body), answer=msgspec.structs.replace(ANSWER, chunks=(b"%d" % number,)))
    found = [look(cache, question(body)).hit for body in bodies]
    assert [hit.answer.chunks for hit in found if hit] == [(b"0",), (b"1",), (b"2",)]


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"7", b'{"a":', b'"\xff"', b'{"a": "\\ud800"}', b"[" * 5000]
    + [
        json.dumps(chat("x", **{name: "y"})).encode() for name in ("previous_response_id", "conversation", "background")
    ],
)
def test_what_cannot_be_cached(cache: AnswerCache, body: bytes) -> None:
    assert look(cache, question(body)) == NOTHING
    assert not cache.keep(NOTHING, ANSWER, NOW)


# When, and for how long


def test_an_answer_expires_also_by_a_policy_that_became_shorter(cache: AnswerCache) -> None:
    kept(cache)
    assert look(cache, question(), now=NOW + 60 * SECOND - 1).hit is not None
    assert look(cache, question(), CachePolicy("exact", ttl_seconds=5), now=NOW + 5 * SECOND).hit is None
    assert look(cache, question(), now=NOW + 60 * SECOND).hit is None
    assert look(cache, question(), CachePolicy("off")) == NOTHING


def test_a_clock_that_stepped_back_finds_nothing_from_the_future(tmp_path: Path) -> None:
    kept(AnswerCache(tmp_path))
    assert look(AnswerCache(tmp_path), question(), now=NOW - 1).hit is None


@pytest.mark.parametrize(
    ("headers", "wish"),
    [
        ({}, Wish()),
        ({b"cache-control": b"No-Cache"}, Wish(read=False)),
        ({b"cache-control": b"no-store"}, Wish(write=False)),
        ({b"cache-control": b"no-cache, no-store"}, Wish(read=False, write=False)),
        ({b"cache-control": b"max-age=30"}, Wish(max_age=30 * SECOND)),
        ({b"cache-control": b"max-age=0"}, Wish(read=False)),
        ({b"cache-control": b"max-age=-1, nonsense"}, Wish()),
        ({b"x-detent-cache": b"off"}, Wish(read=False, write=False)),
        ({b"x-detent-cache": b" Refresh "}, Wish(read=False)),
        ({b"x-detent-cache": b"exact", b"cache-control": b"no-cache"}, Wish(semantic=False)),
        ({b"x-detent-cache": b"semantic"}, Wish()),
        ({b"x-detent-cache": b"\xff"}, Wish()),
    ],
)
def test_what_clients_wish(headers: dict[bytes, bytes], wish: Wish) -> None:
    assert wish_of(headers) == wish


def test_wishes_are_heeded(cache: AnswerCache) -> None:
    kept(cache)
    fresh = look(cache, question(), wish=Wish(read=False))
    assert fresh.hit is None
    assert cache.keep(fresh, msgspec.structs.replace(ANSWER, chunks=(b"new",)), NOW)
    assert look(cache, question(), wish=Wish(write=False)).hit is not None
    unkept = look(cache, question(chat("other")), wish=Wish(write=False))
    assert unkept.used
    assert not cache.keep(unkept, ANSWER, NOW)
    assert look(cache, question(), wish=Wish(read=False, write=False)) == NOTHING
    assert look(cache, question(), wish=Wish(max_age=SECOND), now=NOW + 2 * SECOND).hit is None


def test_hits_and_misses_are_told(cache: AnswerCache) -> None:
    missed = look(cache, question())
    assert hit_headers(missed, NOW) == [(b"x-detent-cache", b"miss")]
    assert hit_attributes(missed) == {"detent.cache": "miss"}
    assert hit_headers(NOTHING, NOW) == []
    assert hit_attributes(NOTHING) == {}
    kept(cache)
    found = look(cache, question(), now=NOW + 7 * SECOND)
    assert hit_headers(found, NOW + 7 * SECOND) == [(b"x-detent-cache", b"hit-exact"), (b"age", b"7")]
    assert hit_attributes(found) == {
        "detent.cache": "hit-exact",
        "detent.cache.saved_input_tokens": 100,
        "detent.cache.saved_output_tokens": 20,
        "detent.cache.saved_usd": 0.000005,
    }


# What is kept


def recorded(chunks: list[bytes], limit: int = 100, **fields: Any) -> Answer | None:
    recorder = Recorder(limit)
    for chunk in chunks:
        recorder.add(chunk)
    defaults: dict[str, Any] = {
        "status": 200,
        "content_type": "t",
        "finish_reason": "stop",
        "usage": Usage(),
        "cost": None,
    }
    return recorder.answer(**{**defaults, **fields})


def test_only_complete_successful_answers_are_kept() -> None:
    found = recorded([b"a", b"", b"b"])
    assert found is not None
    assert found.chunks == (b"a", b"b")
    assert recorded([]) is None
    assert recorded([b"a"], status=429) is None
    assert recorded([b"a"], status=206) is None
    for reason in ("", "error", "cancelled"):
        assert recorded([b"a"], finish_reason=reason) is None
    for reason in ("length", "tool_calls"):
        assert recorded([b"a"], finish_reason=reason) is not None
    assert recorded([b"a" * 60, b"b" * 60, b"c"]) is None


def test_nothing_is_no_answer(cache: AnswerCache) -> None:
    assert not cache.keep(look(cache, question()), None, NOW)


# On the disk


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name not in ("sweep.lock", "cleared"))


def test_workers_share_and_a_restart_loses_nothing(tmp_path: Path) -> None:
    one, other = AnswerCache(tmp_path), AnswerCache(tmp_path)
    kept(one)
    assert look(other, question()).hit is not None
    assert look(AnswerCache(tmp_path), question()).hit is not None
    assert [oct(path.stat().st_mode & 0o777) for path in files(tmp_path)] == ["0o600"]


def test_clear_is_for_one_project_and_for_all_workers(tmp_path: Path) -> None:
    one, other = AnswerCache(tmp_path), AnswerCache(tmp_path)
    for project in "ab":
        kept(one, question(project=project), SEMANTIC)
        assert look(other, question(project=project)).hit is not None
    one.clear("a")
    one.clear("never seen")
    for reader in (one, other, AnswerCache(tmp_path)):
        assert look(reader, question(project="a"), SEMANTIC).hit is None
        assert look(reader, question(project="b"), SEMANTIC).hit is not None
    kept(other)
    assert look(one, question()).hit is not None


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def piped(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def linked(path: Path) -> None:
    there = path.with_name("there")
    path.rename(there)
    path.symlink_to(there)


def foldered(path: Path) -> None:
    path.unlink()
    path.mkdir()


def huge(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(1 << 33)


@pytest.mark.parametrize(
    "harm", [cut, flipped, piped, linked, foldered, huge, Path.unlink, lambda path: path.write_bytes(b"")]
)
def test_a_harmed_file_is_a_miss(tmp_path: Path, harm: Callable[[Path], object]) -> None:
    for policy in (EXACT, SEMANTIC):
        folder = tmp_path / policy.mode
        kept(AnswerCache(folder), policy=policy)
        for path in files(folder):
            harm(path)
        cache = AnswerCache(folder)
        missed = look(cache, question(), policy)
        assert missed.hit is None
        cache.keep(missed, ANSWER, NOW)  # may fail to be kept, and must not raise


def test_a_file_under_another_name_answers_nothing(tmp_path: Path) -> None:
    cache = AnswerCache(tmp_path)
    kept(cache)
    (first,) = files(tmp_path)
    kept(cache, question(project="b"), answer=msgspec.structs.replace(ANSWER, chunks=(b"b's own",)))
    (other,) = [path for path in files(tmp_path) if path != first]
    first.write_bytes(other.read_bytes())
    assert look(AnswerCache(tmp_path), question()).hit is None


def test_a_file_of_another_shape_is_a_miss(tmp_path: Path) -> None:
    kept(AnswerCache(tmp_path))
    (path,) = files(tmp_path)
    for data in (b"\x80", msgspec.msgpack.encode([b"k", 1, 2, 3]), b"\x91" * 5000):
        path.unlink()
        write_file(str(path), data)
        assert look(AnswerCache(tmp_path), question()).hit is None


def test_a_disk_that_refuses_costs_nothing_but_the_cache(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    cache = AnswerCache(tmp_path / "file" / "cache")
    kept(cache, policy=SEMANTIC)
    assert look(cache, question()).hit is not None  # from memory
    assert look(AnswerCache(tmp_path / "file" / "cache"), question(), SEMANTIC).hit is None


def test_memory_is_bounded(tmp_path: Path) -> None:
    cache = AnswerCache(tmp_path, max_memory=100_000)
    for number in range(200):
        kept(cache, question(chat(f"q{number}")), answer=msgspec.structs.replace(ANSWER, chunks=(b"x" * 1000,)))
    store = cache._store
    assert store._held == sum(size for _, size, _ in store._memory.values()) <= 100_000
    assert len(store._memory) > 20
    assert look(cache, question(chat("q0"))).hit is not None


def test_what_was_used_last_stays(tmp_path: Path) -> None:
    cache = AnswerCache(tmp_path, max_bytes=640_000, max_memory=0)
    answer = msgspec.structs.replace(ANSWER, chunks=(b"x" * 5000,))
    for number in range(300):
        now = NOW + 1000 * number
        assert cache.keep(look(cache, question(chat(f"q{number}")), now=now), answer, now)
        assert look(cache, question(chat("q0")), now=now).hit is not None, number
    assert look(cache, question(chat("q1"))).hit is None
    too_large = msgspec.structs.replace(ANSWER, chunks=(b"x" * 10_000,))
    assert not cache.keep(look(cache, question(chat("large"))), too_large, NOW)


def test_what_is_expired_is_removed(tmp_path: Path) -> None:
    cache = AnswerCache(tmp_path)
    kept(cache)
    kept(cache, question(chat("long")), CachePolicy("exact", ttl_seconds=3600))
    assert look(AnswerCache(tmp_path), question(), now=NOW + SECOND).hit is not None
    assert cache.sweep(NOW + 59 * SECOND) > cache.sweep(NOW + 60 * SECOND) > 0
    assert len(files(tmp_path)) == 1
    assert look(AnswerCache(tmp_path), question(chat("long")), CachePolicy("exact"), now=NOW + 61 * SECOND).hit
    assert AnswerCache(tmp_path / "not" / "there").sweep(NOW) == 0


CHURN = """
import sys
from pathlib import Path
from detent.gateway.cache.store import Store
from detent.gateway.cache.model import Answer, Entry
store = Store(Path(sys.argv[1]), max_bytes=2_000_000)
for number in range(250):
    key = int(sys.argv[2]).to_bytes(16) + number.to_bytes(16)
    assert store.put("p", Entry(key, 1, 2**62, Answer("t", (bytes(12_000 + number),))))
    assert store.get("p", key, 5) is not None
"""


def test_bytes_are_bounded_under_churn_of_several_processes(tmp_path: Path) -> None:
    arguments = [sys.executable, "-c", CHURN, str(tmp_path)]
    workers = [subprocess.Popen([*arguments, str(number)]) for number in range(4)]
    seen = []
    while any(worker.poll() is None for worker in workers):
        seen.append(room(tmp_path))
    assert [worker.returncode for worker in workers] == [0] * 4
    seen.append(room(tmp_path))
    assert max(seen) <= 2_000_000
    assert seen[-1] > 500_000


def room(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_blocks * 512 if path.is_file() else 0
        except FileNotFoundError:
            continue
    return total


# Properties


@settings(max_examples=60)
@given(
    chunks=st.lists(st.binary(min_size=1, max_size=300), min_size=1, max_size=8),
    text=st.text(max_size=20),
    projects=st.tuples(st.text(max_size=5), st.text(max_size=5)),
    output=st.text(max_size=20),
)
def test_an_answer_is_given_again_to_the_byte_and_to_nobody_else(
    chunks: list[bytes], text: str, projects: tuple[str, str], output: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("cache")
    mine, others = (question(chat(text), project=project) for project in projects)
    answer = msgspec.structs.replace(ANSWER, chunks=tuple(chunks), output=output)
    writer = AnswerCache(folder)
    missed = look(writer, mine)
    assert writer.keep(missed, answer, NOW)
    for reader in (writer, AnswerCache(folder)):
        hit = look(reader, mine).hit
        assert hit is not None
        assert hit.answer == answer
        assert (look(reader, others).hit is not None) == (projects[0] == projects[1])


@given(data=st.binary(max_size=200), at=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_a_changed_bit_is_noticed(data: bytes, at: int, bit: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = str(tmp_path_factory.mktemp("file") / "x")
    write_file(path, data + b"!")
    assert read_file(path, 10_000) == data + b"!"
    raw = bytearray(Path(path).read_bytes())
    raw[at % len(raw)] ^= 1 << bit
    Path(path).write_bytes(bytes(raw))
    assert read_file(path, 10_000) is None


# Alike


def test_a_rewording_is_a_hit_where_it_is_wanted(cache: AnswerCache) -> None:
    asked = question(chat("How do I reset the password of my account?"))
    alike = question(chat("how to reset the password of my account"))
    kept(cache, asked, SEMANTIC)
    found = look(cache, alike, SEMANTIC)
    assert found.hit is not None
    assert found.hit.kind == "semantic"
    assert 0.97 <= found.hit.similarity <= 1.01
    assert hit_headers(found, NOW)[0] == (b"x-detent-cache", b"hit-semantic")
    assert hit_attributes(found)["detent.cache.similarity"] == round(found.hit.similarity, 4)
    assert look(cache, alike, EXACT).hit is None
    assert look(cache, alike, SEMANTIC, Wish(semantic=False)).hit is None
    assert look(cache, alike, SEMANTIC, now=NOW + 60 * SECOND).hit is None


@pytest.mark.parametrize(
    "other",
    [
        {"project": "b"},
        {"route": "s"},
        {"version": 2},
        {"dialect": "anthropic"},
        {"system": "Be verbose."},
        {"temperature": 1},
        {"earlier": True},
    ],
)
def test_likeness_is_of_the_last_words_only(cache: AnswerCache, other: dict[str, Any]) -> None:
    kept(cache, question(chat("How do I reset the password of my account?")), SEMANTIC)
    body = chat("how to reset the password of my account")
    if "system" in other:
        body["messages"][0]["content"] = other.pop("system")
    if other.pop("earlier", False):
        body["messages"][1:1] = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    if "temperature" in other:
        body["temperature"] = other.pop("temperature")
    assert look(cache, question(body, **other), SEMANTIC).hit is None


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("refund order 17", "refund order 71"),
        ("pay 1.5 for it", "pay 15 for it"),
        ("from 3 to 5", "from 5 to 3"),
        ("do restart the server", "do not restart the server"),
        ("I can see it", "I can't see it"),
        ("with sugar", "without sugar"),
        ("turn the light on", "turn the light off"),
        ('say "yes please"', 'say "no thanks"'),
        ("run `rm a`", "run `rm b`"),
        ("fly from Paris to Rome", "fly from Rome to Paris"),
        ("from my savings to checking", "from checking to my savings"),
        ("do I owe you money", "do you owe me money"),
        ("will you be calling me", "will I be calling you"),
        ("is it paid by the patient", "is it paid for the patient"),
        ("delivery to them", "delivery from them"),
        ("is this cheaper than the other", "is the other cheaper than this"),
        ("ask Ann about it", "ask Bob about it"),
        ("write to a@x.org", "write to b@x.org"),
        ("read https://x.org/a", "read https://x.org/b"),
        ("is a > b", "is a < b"),
        ("who opens it", "when opens it"),
        ("the cheapest lamp", "the best lamp"),
        ("use JSON", "use YAML"),
        ("on monday", "on friday"),
        ("ich will es", "ich will es nicht"),
        ("可以退款", "不可以退款"),
        ("version 2a", "version 2b"),
    ],
)
def test_what_counts_is_never_alike(one: str, other: str) -> None:
    assert guard_of(one) != guard_of(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("How do I reset it?", "how can I reset it"),
        ("Please tell me. How do I reset it", "Hi, how to reset it!"),
        ("don't do it", "do not do it"),
        ("order 17.", "Order 17, please"),
        ("could you tell me how I reset it", "how do I reset it"),
        ("do you also ship it", "would you ship it"),
    ],
)
def test_what_does_not_count_is_no_guard(one: str, other: str) -> None:
    assert guard_of(one) == guard_of(other)


def test_the_order_of_words_counts_for_the_vectors() -> None:
    embed = HashedNgrams()
    one, other = embed("flights paris rome"), embed("flights rome paris")
    assert sum(a * b for a, b in zip(one, other, strict=True)) < 0.97
    assert abs(sum(a * a for a in one) - 1) < 1e-9
    assert not any(embed("?!"))
    assert embed("straße") == embed("STRASSE")


def test_a_word_that_would_not_show_is_not_risked() -> None:
    assert told_apart("word " * 40, 0.97, 1.2)
    assert not told_apart("word " * 41, 0.97, 1.2)
    assert told_apart("word " * 1000, 0.97, 0)


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (chat("hello"), "hello"),
        ({"input": "hello"}, "hello"),
        ({"input": [{"role": "user", "content": [{"type": "input_text", "text": "hello"}]}]}, "hello"),
        (
            chat(
                [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {}}, {"type": "text", "text": "b"}]
            ),
            "a\nb",
        ),
        (chat("x" * 2001), None),
        (chat(" "), None),
        (chat(None), None),
        (chat(7), None),
        ({"messages": []}, None),
        ({"messages": [7]}, None),
        ({"messages": [{"role": "assistant", "content": "hello"}]}, None),
        ({"messages": "x"}, "x"),
        ({}, None),
    ],
)
def test_the_last_words(body: dict[str, Any], text: str | None) -> None:
    before = json.dumps(body)
    found = split(body)
    assert (found.text if found else None) == text
    assert json.dumps(body) == before


def test_an_embedding_of_ones_own(tmp_path: Path) -> None:
    class Topic:
        name = "topic"
        dims = 2
        resolution = 0.0

        def __call__(self, text: str) -> tuple[float, float]:
            return (1.0, 0.0) if "lamp" in text else (0.0, 1.0)

    cache = AnswerCache(tmp_path, embed=Topic())
    kept(cache, question(chat("send the lamp back")), SEMANTIC)
    assert look(cache, question(chat("return my lamp")), SEMANTIC).hit is not None
    assert look(cache, question(chat("return my chair")), SEMANTIC).hit is None
    assert look(AnswerCache(tmp_path), question(chat("return my lamp")), SEMANTIC).hit is None  # another function's


def test_the_index_is_bounded_and_skips_what_is_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("detent.gateway.cache.index._MOST", 20)
    cache = AnswerCache(tmp_path)
    for number in range(100):
        kept(cache, question(chat(f"reset the password of account {number}")), SEMANTIC)
    (path,) = [path for path in files(tmp_path) if path.parent.name == "like"]
    size = cache._index._size
    assert path.stat().st_size <= 41 * size
    path.write_bytes(path.read_bytes()[:-5] + b"trash")
    again = AnswerCache(tmp_path)
    assert look(again, question(chat("please reset the password of account 98")), SEMANTIC).hit is not None
    assert look(again, question(chat("please reset the password of account 99")), SEMANTIC).hit is None
