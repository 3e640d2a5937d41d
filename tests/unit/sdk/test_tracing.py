"""`@detent.trace` on everything it can stand on, and what it never does."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import inspect
import os
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Generator, Iterator
from typing import Any

import pytest

import detent
from detent import sdk
from detent.sdk import tracing
from detent.sdk.exporter import Exporter
from detent.sdk.otlp import content, encode
from detent.sdk.span import ActiveSpan
from detent.sdk.transport import Transport


class Kept:
    """An exporter that only keeps."""

    def __init__(self) -> None:
        self.spans: list[ActiveSpan] = []
        self.lost = 0

    def put(self, span: ActiveSpan) -> None:
        self.spans.append(span)

    def flush(self, timeout: float) -> bool:
        return True

    def close(self, timeout: float) -> None:
        pass

    def one(self, name: str) -> ActiveSpan:
        (found,) = [span for span in self.spans if span.name.endswith(name)]
        return found


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> Kept:
    exporter = Kept()
    monkeypatch.setattr(tracing._SETUP, "exporter", exporter)
    monkeypatch.setattr(tracing._SETUP, "decided", True)
    return exporter


def test_a_function(kept: Kept) -> None:
    @detent.trace
    def answer(question: str, *, depth: int = 1) -> str:
        """Doc."""
        return question.upper()

    assert answer("hi", depth=2) == "HI"
    assert (answer.__name__, answer.__doc__) == ("answer", "Doc.")
    span = kept.one("answer")
    assert (span.input, span.output, span.error_type) == ({"question": "hi", "depth": 2}, "HI", "")
    assert span.parent_id == ""
    assert len(span.trace_id) == 32


def test_spans_nest(kept: Kept) -> None:
    @detent.trace
    def inner() -> str:
        return detent.sdk.current_span().span_id

    @detent.trace("outer", operation="invoke_agent", attributes={"team": "support"})
    def outer() -> list[str]:
        with detent.trace("block") as span:
            span.set(candidates=3).record(input="in", output=None)
            return [inner(), inner()]

    outer()
    block, root = kept.one("block"), kept.one("outer")
    inners = [span for span in kept.spans if span.name.endswith("inner")]
    assert {span.parent_id for span in inners} == {block.span_id}
    assert block.parent_id == root.span_id
    assert len({span.trace_id for span in kept.spans}) == 1
    assert (block.attributes, block.input, block.output) == ({"candidates": 3}, "in", None)
    assert (root.attributes, root.operation) == ({"team": "support"}, "invoke_agent")
    assert not sdk.current_span().recorded


def test_exceptions_pass_and_are_noted(kept: Kept) -> None:
    @detent.trace
    def fails() -> None:
        raise KeyError("missing")

    with pytest.raises(KeyError):
        fails()
    with pytest.raises(ZeroDivisionError), detent.trace("block"):
        _ = 1 / 0
    assert (kept.one("fails").error_type, kept.one("block").error_type) == ("KeyError", "ZeroDivisionError")
    assert not sdk.current_span().recorded


def test_methods_leave_self_out(kept: Kept) -> None:
    class Agent:
        @detent.trace
        def run(self, task: str) -> str:
            return task

        @classmethod
        @detent.trace
        def make(cls, name: str) -> str:
            return name

        @staticmethod
        @detent.trace
        def plain(x: int) -> int:
            return x

    Agent().run("a")
    Agent.make("b")
    Agent.plain(1)
    assert [span.input for span in kept.spans] == [{"task": "a"}, {"name": "b"}, {"x": 1}]


def test_coroutines_and_tasks(kept: Kept) -> None:
    @detent.trace
    async def step(n: int) -> int:
        await asyncio.sleep(0.001 * (3 - n))
        return n

    @detent.trace
    async def whole() -> list[int]:
        async with detent.trace("block"):
            return list(await asyncio.gather(*(step(n) for n in range(3))))

    assert inspect.iscoroutinefunction(whole)
    assert asyncio.run(whole()) == [0, 1, 2]
    block = kept.one("block")
    assert {span.parent_id for span in kept.spans if span.name.endswith("step")} == {block.span_id}
    assert kept.one("whole").output == [0, 1, 2]


def test_a_cancelled_task(kept: Kept) -> None:
    @detent.trace
    async def slow() -> None:
        await asyncio.sleep(10)

    async def main() -> None:
        task = asyncio.create_task(slow())
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert kept.one("slow").error_type == "CancelledError"


def test_generators(kept: Kept) -> None:
    @detent.trace
    def words(text: str) -> Generator[str, str | None, int]:
        count = 0
        for word in text.split():
            with detent.trace(f"word {word}"):
                pass
            answer = yield word
            count += 1 if answer is None else 10
        return count

    generator = words("a b")
    assert inspect.isgeneratorfunction(words)
    assert next(generator) == "a"
    assert not sdk.current_span().recorded
    with detent.trace("outside") as outside:
        assert generator.send("x") == "b"
        assert sdk.current_span() is outside
    with pytest.raises(StopIteration) as stop:
        next(generator)
    assert stop.value.value == 11
    span = kept.one("words")
    assert (span.output, span.error_type) == ("ab", "")
    assert {kept.one("word a").parent_id, kept.one("word b").parent_id} == {span.span_id}


def test_a_block_held_over_a_yield(kept: Kept) -> None:
    @detent.trace
    def steps() -> Iterator[int]:
        with detent.trace("held"):
            yield 1
            with detent.trace("under"):
                yield 2

    for _ in steps():
        assert not sdk.current_span().recorded
    assert kept.one("under").parent_id == kept.one("held").span_id
    assert kept.one("held").parent_id == kept.one("steps").span_id


def test_generators_left_early_failed_or_thrown_into(kept: Kept) -> None:
    closed = []

    @detent.trace
    def numbers() -> Iterator[int]:
        try:
            yield 1
            yield 2
        except ValueError:
            yield 99
        finally:
            closed.append(True)

    for _ in numbers():
        break
    gc.collect()
    assert closed == [True]
    assert kept.spans[-1].error_type == ""
    generator = numbers()
    next(generator)
    assert generator.throw(ValueError("x")) == 99  # type: ignore[attr-defined]
    generator.close()  # type: ignore[attr-defined]

    @detent.trace
    def bad() -> Iterator[int]:
        yield 1
        raise KeyError("x")

    with pytest.raises(KeyError):
        list(bad())
    assert kept.one("bad").error_type == "KeyError"
    assert kept.one("bad").output == [1]


def test_asynchronous_generators(kept: Kept) -> None:
    @detent.trace
    async def stream(n: int) -> AsyncIterator[str]:
        for number in range(n):
            with detent.trace(f"chunk {number}"):
                await asyncio.sleep(0)
            yield str(number)

    async def main() -> tuple[list[str], list[str]]:
        whole = [item async for item in stream(3)]
        part = []
        generator = stream(5)
        async for item in generator:
            part.append(item)
            assert not sdk.current_span().recorded
            if item == "1":
                break
        await generator.aclose()  # type: ignore[attr-defined]
        return whole, part

    assert asyncio.run(main()) == (["0", "1", "2"], ["0", "1"])
    outputs = [span.output for span in kept.spans if span.name.endswith("stream")]
    assert outputs == ["012", "01"]
    parents = {span.span_id for span in kept.spans if span.name.endswith("stream")}
    assert {span.parent_id for span in kept.spans if "chunk" in span.name} == parents


def test_threads_with_a_copied_context(kept: Kept) -> None:
    @detent.trace
    def work() -> None:
        pass

    with detent.trace("root") as root:
        context = contextvars.copy_context()
        thread = threading.Thread(target=context.run, args=(work,))
        thread.start()
        thread.join()
    assert kept.one("work").parent_id == root.span_id


def test_propagation(kept: Kept) -> None:
    assert sdk.propagation_headers() == {}
    with detent.trace("root") as root:
        assert sdk.propagation_headers() == {"traceparent": f"00-{root.trace_id}-{root.span_id}-01"}
        header = root.traceparent
    with detent.trace("elsewhere", parent=header) as there:
        assert (there.trace_id, there.parent_id) == (root.trace_id, root.span_id)
    for wrong in ("", "nonsense", "00-" + "0" * 32 + "-" + "1" * 16 + "-01", header.upper()):
        with detent.trace("fresh", parent=wrong) as fresh:
            assert fresh.trace_id != root.trace_id
            assert fresh.parent_id == ""


def test_content_can_stay_out(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    @detent.trace(content=False)
    def secret(password: str) -> str:
        raise ValueError(password)

    with pytest.raises(ValueError, match="hunter2"):
        secret("hunter2")
    monkeypatch.setattr(tracing._SETUP, "content", False)
    with detent.trace("block", content=True) as span:
        span.record(input="hunter2")
    assert b"hunter2" not in encode(kept.spans)
    assert b"ValueError" in encode(kept.spans)


def test_values_that_misbehave(kept: Kept) -> None:
    class Hostile:
        def __repr__(self) -> str:
            raise RuntimeError("no")

        def __len__(self) -> int:
            raise RuntimeError("no")

    @detent.trace
    def takes(value: Any) -> Any:
        return value

    loop: list[Any] = []
    loop.append(loop)
    for value in (Hostile(), loop, {1: object()}, {"a": b"bytes"}, "\ud800", float("nan"), 2**80, {(1, 2): 3}):
        assert takes(value) is value
    with detent.trace("block") as span:
        span.set(big=2**80, thing=Hostile(), many=[1, "a", None], nothing=None, flag=True, ratio=0.5)
    assert len(encode(kept.spans)) > 0
    assert kept.lost == 0


def test_content_has_a_bound() -> None:
    assert len(content("x" * 1_000_000)) < 300_000
    assert content({"a": 1}) == '{"a":1}'


# Off


def test_nothing_happens_when_unconfigured(monkeypatch: pytest.MonkeyPatch) -> None:
    before = threading.active_count()

    @detent.trace
    def answer(x: int) -> int:
        return x + 1

    @detent.trace
    def items() -> Iterator[int]:
        yield 1
        return 5

    assert answer(1) == 2
    assert list(items()) == [1]
    with detent.trace("block") as span:
        span.set(a=1).record(output=1)
        assert (span.recorded, span.traceparent, sdk.propagation_headers()) == (False, "", {})
        assert not sdk.current_span().recorded
    assert span.attributes == {}
    assert threading.active_count() == before
    assert sdk.flush()


def test_it_costs_little_when_off() -> None:
    @detent.trace
    def nothing() -> None:
        pass

    nothing()
    begun = time.process_time()
    for _ in range(20_000):
        nothing()
    assert (time.process_time() - begun) / 20_000 < 20e-6


def test_an_address_that_is_none_only_warns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETENT_URL", "nonsense")
    monkeypatch.setenv("DETENT_KEY", "k")
    sdk.shutdown()
    with pytest.warns(RuntimeWarning, match="DETENT_URL"), detent.trace("block"):
        pass


# On the way


def test_spans_arrive(server: Any) -> None:
    sdk.configure(url=server.url, key=server.key, service="tests")

    @detent.trace(operation="execute_tool", attributes={"order": 7})
    def look_up(order: int) -> dict[str, int]:
        return {"order": order}

    with detent.trace("agent") as root:
        look_up(7)
        with pytest.raises(KeyError), detent.trace("bad"):
            raise KeyError("x")
    assert sdk.flush(10)
    spans = server.platform.traces.get(server.platform.access.operator(), root.trace_id)
    found = {span.name.rpartition(".")[2]: span for span in spans}
    assert set(found) == {"agent", "look_up", "bad"}
    assert found["look_up"].operation == "execute_tool"
    assert found["look_up"].input == '{"order":7}'
    assert found["look_up"].output == '{"order":7}'
    assert found["look_up"].parent_id == root.span_id
    assert (found["bad"].status, found["bad"].error_type) == ("error", "KeyError")
    assert found["agent"].status == "ok"
    assert 0 < found["look_up"].duration <= found["agent"].duration


def test_many_spans_go_in_batches(server: Any) -> None:
    sdk.configure(url=server.url, key=server.key)
    with detent.trace("many") as root:
        for n in range(600):
            with detent.trace(f"step {n}"):
                pass
    assert sdk.flush(20)
    assert len(server.platform.traces.get(server.platform.access.operator(), root.trace_id)) == 601


def exporter_on(script: Any, **options: Any) -> Exporter:
    from detent.kernel.secret import Secret

    return Exporter(Transport(script.url, Secret("k"), timeout=2, retries=0), **options)


def put(exporter: Exporter, count: int) -> None:
    for n in range(count):
        span = ActiveSpan(f"s{n}", parent=None)
        span.finish()
        exporter.put(span)


def test_what_the_server_refuses_is_counted(scripted: Any) -> None:
    scripted.say(400, {"error": {"code": "invalid_input", "message": "No."}})
    exporter = exporter_on(scripted)
    put(exporter, 3)
    assert exporter.flush(5)
    assert (exporter.sent, exporter.dropped) == (0, 3)
    exporter.close(5)


def test_what_the_server_cannot_take_now_is_sent_later(scripted: Any) -> None:
    scripted.say(429, {"error": {"code": "too_many", "message": "Wait."}}, retry_after="1")
    scripted.say(200)
    exporter = exporter_on(scripted)
    put(exporter, 3)
    assert exporter.flush(10)
    assert (exporter.sent, exporter.dropped) == (3, 0)
    exporter.close(5)
    assert len(scripted.asked) == 2


def test_the_queue_is_bounded(scripted: Any) -> None:
    scripted.say(503, {"error": {"code": "unavailable", "message": "Down."}}, retry_after="30")
    exporter = exporter_on(scripted, most_waiting=10)
    put(exporter, 25)
    assert exporter.dropped >= 15
    begun = time.monotonic()
    exporter.close(0.5)
    assert time.monotonic() - begun < 5
    assert exporter.sent == 0


def run_program(program: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", program]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=30, check=True)


def test_a_program_that_ends_has_sent_all(server: Any) -> None:
    program = "import detent\nwith detent.trace('last words') as span: pass\nprint(span.trace_id)"
    env = {**os.environ, "DETENT_URL": server.url, "DETENT_KEY": server.key}
    ran = subprocess.run(
        [sys.executable, "-c", program], env=env, capture_output=True, text=True, timeout=30, check=True
    )
    spans = server.platform.traces.get(server.platform.access.operator(), ran.stdout.strip())
    assert [span.name for span in spans] == ["last words"]


def test_a_program_ends_when_nobody_listens(free_port: int) -> None:
    program = "import detent\nwith detent.trace('x'): pass"
    env = {**os.environ, "DETENT_URL": f"http://127.0.0.1:{free_port}", "DETENT_KEY": "k"}
    begun = time.monotonic()
    ran = subprocess.run(
        [sys.executable, "-c", program], env=env, capture_output=True, text=True, timeout=30, check=True
    )
    assert (ran.stdout, ran.stderr) == ("", "")
    assert time.monotonic() - begun < 15


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_sends_its_own_spans_once(server: Any) -> None:
    program = """
import os, detent
with detent.trace("parent") as parent:
    pass
pid = os.fork()
if pid == 0:
    with detent.trace("child") as child:
        pass
    detent.sdk.shutdown()
    os._exit(0)
os.waitpid(pid, 0)
detent.sdk.shutdown()
print(parent.trace_id)
"""
    env = {**os.environ, "DETENT_URL": server.url, "DETENT_KEY": server.key}
    ran = run_program(program, env)
    caller = server.platform.access.operator()
    assert len(server.platform.traces.get(caller, ran.stdout.strip())) == 1
    from detent.kernel.telemetry import SpanFilter

    rows = server.platform.traces.list(caller, SpanFilter(project="")).rows
    assert "child" in {row.root.name for row in rows}
