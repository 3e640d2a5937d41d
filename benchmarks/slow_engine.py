"""A model server that is slow in the way real ones are: continuous batching, simulated.

    python benchmarks/slow_engine.py --port 0

serves `POST /v1/chat/completions` (streams only) and prints its port. It computes nothing: a step of the batch takes

    base + per_sequence * (sequences that put out a token) + per_prompt_token * (prompt tokens read in this step)

seconds, which is how small models on a CPU and large ones on a GPU behave alike; only the constants differ. Those here
are of a model of some 150 M parameters on two cores. Prompts are read in chunks of a step's budget, first come first
served, beside the sequences that already put out tokens, as vLLM does; at most `slots` sequences run, others wait
inside.
The sizes of a call come from its request: `prompt_tokens` and `max_tokens`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import httptools


class Model(NamedTuple):
    """What a step costs, in seconds, and what fits in one."""

    base: float = 0.012
    per_sequence: float = 0.005
    per_prompt_token: float = 0.00025
    prompt_budget: int = 256
    slots: int = 256

    def capacity(self, prompt: float, output: float, pace: float) -> float:
        """Requests per second of these mean sizes, at most, if a token may take `pace` seconds.

        With n sequences at once a request takes prompt reading and output/n steps of the engine's time, and a token
        takes n / (rate * output) seconds of the clock.
        """
        read = self.per_prompt_token * prompt
        n = (pace * output - output * self.base) / (read + output * self.per_sequence)
        return n / (pace * output)


class Sequence:
    """A request in the engine."""

    __slots__ = ("left", "on_token", "unread")

    def __init__(self, prompt: int, output: int, on_token: Callable[[int], None]) -> None:
        self.unread = prompt
        self.left = output
        self.on_token = on_token


class Engine:
    """Runs the batch in the current event loop."""

    def __init__(self, model: Model | None = None) -> None:
        self.model = model or Model()
        self.loop = asyncio.get_running_loop()
        self._waiting: deque[Sequence] = deque()
        self._batch: list[Sequence] = []
        self._stepping = False

    def submit(self, prompt: int, output: int, on_token: Callable[[int], None]) -> Sequence:
        """Begin a request; `on_token` is told after each token how many are still to come."""
        sequence = Sequence(max(prompt, 1), max(output, 1), on_token)
        self._waiting.append(sequence)
        if not self._stepping:
            self._stepping = True
            self.loop.call_soon(self._begin)
        return sequence

    def cancel(self, sequence: Sequence) -> None:
        """Drop a request."""
        if sequence in self._batch:
            self._batch.remove(sequence)
        elif sequence in self._waiting:
            self._waiting.remove(sequence)

    def _begin(self) -> None:
        while self._waiting and len(self._batch) < self.model.slots:
            self._batch.append(self._waiting.popleft())
        if not self._batch:
            self._stepping = False
            return
        budget = self.model.prompt_budget
        speaking = []
        for sequence in self._batch:
            if sequence.unread:
                read = min(sequence.unread, budget)
                budget -= read
                sequence.unread -= read
                if sequence.unread:
                    continue
            speaking.append(sequence)
        read = self.model.prompt_budget - budget
        seconds = self.model.base + self.model.per_sequence * len(speaking) + self.model.per_prompt_token * read
        self.loop.call_later(seconds, self._end, speaking)

    def _end(self, speaking: list[Sequence]) -> None:
        for sequence in speaking:
            sequence.left -= 1
            sequence.on_token(sequence.left)
        self._batch = [sequence for sequence in self._batch if sequence.left]
        self._begin()


HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
BASE = {"id": "chatcmpl-slow", "object": "chat.completion.chunk", "created": 1_700_000_000, "model": "slow"}


def event(data: dict[str, object]) -> bytes:
    """One event of a stream in chunked encoding."""
    text = f"data: {json.dumps({**BASE, **data}, separators=(',', ':'))}\n\n".encode()
    return b"%x\r\n%b\r\n" % (len(text), text)


TOKEN = event({"choices": [{"index": 0, "delta": {"content": "tok "}, "finish_reason": None}]})
FINISH = event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
DONE = b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"


class Connection(asyncio.Protocol):
    """One client's connection."""

    engine: Engine

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]
        self.parser = httptools.HttpRequestParser(self)
        self.body = b""
        self.running: Sequence | None = None

    def connection_lost(self, _exc: Exception | None) -> None:
        if self.running is not None:
            self.engine.cancel(self.running)

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        asked = json.loads(self.body or b"{}")
        self.body = b""
        prompt, output = int(asked.get("prompt_tokens", 64)), int(asked.get("max_tokens", 32))
        usage = event(
            {
                "choices": [],
                "usage": {"prompt_tokens": prompt, "completion_tokens": output, "total_tokens": prompt + output},
            }
        )
        wants_usage = bool((asked.get("stream_options") or {}).get("include_usage"))
        begun = False

        def on_token(left: int) -> None:
            nonlocal begun
            if self.transport.is_closing():  # it left in the middle of a step
                return
            data = TOKEN if begun else HEAD + TOKEN
            begun = True
            if not left:
                self.running = None
                data += FINISH + (usage if wants_usage else b"") + DONE
            self.transport.write(data)

        self.running = self.engine.submit(prompt, output, on_token)


async def serve(port: int) -> None:
    """Answer until killed."""
    Connection.engine = Engine()
    server = await asyncio.get_running_loop().create_server(Connection, "127.0.0.1", port, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    asyncio.run(serve(parser.parse_args().port))
