"""The engine as a process of its own, called with the OpenAI SDK."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest

from detent.serving.engines.tiny.domain import Example, examples
from detent.serving.engines.tiny.generation import Tiny
from detent.serving.engines.tiny.measure import conversation

pytestmark = pytest.mark.e2e
PLAIN = '{"intent":"other","order":null,"product":null,"city":null,"priority":"normal"}'


@dataclass
class Running:
    """An engine process and where it listens."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path

    @property
    def client(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"http://127.0.0.1:{self.port}/v1", api_key="none", max_retries=0)

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=20)


@contextlib.contextmanager
def engine(folder: Path, *options: str) -> Iterator[Running]:
    """Start it on a socket of ours, as the supervisor does; calls made before it is up wait in the socket."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port, fd = listener.getsockname()[1], listener.fileno()
        command = [sys.executable, "-m", "detent.serving.engines.tiny", "--port", str(port), "--fd", str(fd), *options]
        log = folder / "engine.log"
        with log.open("wb") as out:
            process = subprocess.Popen(command, pass_fds=(fd,), stderr=out)
    try:
        yield Running(process, port, log)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(timeout=20)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with engine(tmp_path_factory.mktemp("engine")) as running:
        yield running


def test_the_sdk_gets_an_answer(tiny: Running) -> None:
    with tiny.client as client:
        answer = client.chat.completions.create(
            model="detent-tiny",
            messages=[
                {"role": "user", "content": "My kettle arrived broken. Order 48213. I live in Leeds. Please hurry."}
            ],
        )
    assert json.loads(answer.choices[0].message.content or "") == {
        "intent": "damage",
        "order": "48213",
        "product": "kettle",
        "city": "Leeds",
        "priority": "high",
    }
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_the_sdk_gets_a_stream(tiny: Running) -> None:
    with tiny.client as client:
        stream = client.chat.completions.create(
            model="detent-tiny",
            messages=[{"role": "system", "content": "Only give intent."}, {"role": "user", "content": "Hello"}],
            stream=True,
            stream_options={"include_usage": True},
        )
        chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == '{"intent":"other"}'
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == len(chunks) - 3


def test_the_sdk_knows_the_errors(tiny: Running) -> None:
    with tiny.client as client:
        assert [model.id for model in client.models.list()] == ["detent-tiny"]
        with pytest.raises(openai.NotFoundError, match="not served"):
            client.chat.completions.create(model="other", messages=[{"role": "user", "content": "Hello"}])
        with pytest.raises(openai.BadRequestError, match="text only"):
            client.chat.completions.create(
                model="detent-tiny",
                messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}],
            )


def test_many_at_once_each_get_their_own_answer(tiny: Running) -> None:
    asked = examples(11, 24, "train")

    async def together() -> list[str]:
        url = f"http://127.0.0.1:{tiny.port}/v1"
        async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:

            async def one(example: Example) -> str:
                messages: Any = [{"role": role, "content": text} for role, text in conversation(example)]
                answer = await client.chat.completions.create(model="detent-tiny", messages=messages)
                return answer.choices[0].message.content or ""

            return await asyncio.gather(*map(one, asked))

    alone = Tiny.load()
    with ThreadPoolExecutor(1) as pool:  # a loop may run in this thread already, left there by a browser's driver
        answered = pool.submit(lambda: asyncio.run(together())).result()
    assert answered == [alone.answer(conversation(example)).text for example in asked]


def test_sigterm_lets_answers_in_flight_finish(tmp_path: Path) -> None:
    with engine(tmp_path, "--pace", "20") as running, running.client as client:
        stream = client.chat.completions.create(
            model="detent-tiny", messages=[{"role": "user", "content": "Hello"}], stream=True
        )
        chunks = [next(stream), next(stream)]
        running.process.send_signal(signal.SIGTERM)
        chunks += list(stream)
        assert running.process.wait(timeout=20) == 0
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == PLAIN
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert "draining after SIGTERM" in running.log.read_text()


def test_sigterm_with_nothing_in_flight_is_a_quick_and_clean_exit(tmp_path: Path) -> None:
    with engine(tmp_path) as running, running.client as client:
        client.models.list()
        began = time.monotonic()
        assert running.stop() == 0
        assert time.monotonic() - began < 5


def test_a_taken_port_is_told_without_a_traceback(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = [sys.executable, "-m", "detent.serving.engines.tiny", "--port", str(port)]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 1
    assert ended.stderr.startswith("detent-tiny cannot start: ")
    assert "Traceback" not in ended.stderr
