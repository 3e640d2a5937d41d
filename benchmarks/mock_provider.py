"""A provider for benchmarks that costs next to nothing: prepared answers over a bare asyncio protocol.

    python benchmarks/mock_provider.py --port 0 [--latency MS] [--gap MS] [--tokens N] [--mode MODE] [--certificate PEM]

Prints its port. `--latency` is the time before an answer or a stream's first event, `--gap` the time between events
(0 sends them all at once). A stream has a role event, one event a token, a finish, usage when asked for, and `[DONE]`.
`--mode` makes it fail: `500` and `429` answer with that status, `hang` never answers, `cut` hangs up within a stream.
`POST /mock` with `{"latency": 5, "mode": "hang"}` changes any of these while it runs, and a request for the model
`fail-MODE` fails by itself.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import ssl
from functools import cache

import httptools
import uvloop

BASE = {"id": "chatcmpl-mock", "created": 1_700_000_000, "model": "mock-model", "system_fingerprint": "fp_mock"}


def _event(choices: list[dict[str, object]], **more: object) -> bytes:
    data = json.dumps({**BASE, "object": "chat.completion.chunk", "choices": choices, **more}, separators=(",", ":"))
    return _chunk(f"data: {data}\n\n".encode())


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


@cache
def answer(tokens: int) -> bytes:
    """A whole answer with its head."""
    message = {"role": "assistant", "content": " ".join(["tok"] * tokens)}
    usage = {"prompt_tokens": 10, "completion_tokens": tokens, "total_tokens": 10 + tokens}
    choices = [{"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}]
    body = json.dumps({**BASE, "object": "chat.completion", "choices": choices, "usage": usage}).encode()
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)


HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


@cache
def events(tokens: int, *, usage: bool) -> tuple[bytes, ...]:
    """A stream's pieces, each in chunked encoding; the last one ends it."""
    found = [_event([{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}])]
    found += [_event([{"index": 0, "delta": {"content": "tok "}, "finish_reason": None}])] * tokens
    found.append(_event([{"index": 0, "delta": {}, "finish_reason": "stop"}]))
    if usage:
        found.append(_event([], usage={"prompt_tokens": 10, "completion_tokens": tokens}))
    return (*found, _chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")


FAILURES = {
    "500": b"HTTP/1.1 500 Internal Server Error\r\ncontent-type: application/json\r\n",
    "429": b"HTTP/1.1 429 Too Many Requests\r\nretry-after: 1\r\ncontent-type: application/json\r\n",
}
WORDS = b'{"error":{"message":"The mock fails as it was told to.","type":"server_error","code":"mock"}}'
CUT_AFTER = 5
"""Pieces of a stream before it is cut."""
_MODE = re.compile(rb'"fail-(\w+)"')


class Provider(asyncio.Protocol):
    """One connection."""

    options: argparse.Namespace

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]
        self.loop = asyncio.get_running_loop()
        self.parser = httptools.HttpRequestParser(self)
        self.url = b""
        self.body = b""
        self.closed = False

    def connection_lost(self, _exc: Exception | None) -> None:
        self.closed = True

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        self.url = url

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        asked, self.body = self.body, b""
        if self.url == b"/mock":
            vars(self.options).update(json.loads(asked))
            self.transport.write(b"HTTP/1.1 204 No Content\r\n\r\n")
            return
        named = _MODE.search(asked)
        mode = named[1].decode() if named else self.options.mode
        if mode in FAILURES:
            self.transport.write(FAILURES[mode] + b"content-length: %d\r\n\r\n" % len(WORDS) + WORDS)
            return
        if mode == "hang":
            return
        if mode == "cut":
            self.transport.write(HEAD + b"".join(events(self.options.tokens, usage=False)[:CUT_AFTER]))
            self.transport.close()
            return
        begin = self._stream if b'"stream":true' in asked.replace(b": ", b":") else self._whole
        if self.options.latency:
            self.loop.call_later(self.options.latency / 1000, begin, asked)
        else:
            begin(asked)

    def _whole(self, _asked: bytes) -> None:
        if not self.closed:
            self.transport.write(answer(self.options.tokens))

    def _stream(self, asked: bytes) -> None:
        pieces = events(self.options.tokens, usage=b"include_usage" in asked)
        if self.closed:
            return
        if not self.options.gap:
            self.transport.write(HEAD + b"".join(pieces))
            return
        self.transport.write(HEAD + pieces[0])
        self._next(pieces, 1, self.loop.time() + self.options.gap / 1000)

    def _next(self, pieces: tuple[bytes, ...], index: int, at: float) -> None:
        self.loop.call_at(at, self._tick, pieces, index, at)

    def _tick(self, pieces: tuple[bytes, ...], index: int, at: float) -> None:
        if self.closed:
            return
        self.transport.write(pieces[index])
        if index + 1 < len(pieces):
            self._next(pieces, index + 1, at + self.options.gap / 1000)


async def serve(options: argparse.Namespace) -> None:
    """Answer until killed."""
    Provider.options = options
    context = None
    if options.certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(options.certificate)
    server = await asyncio.get_running_loop().create_server(
        Provider, "127.0.0.1", options.port, backlog=4096, ssl=context
    )
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--latency", type=float, default=0)
    parser.add_argument("--gap", type=float, default=0)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--mode", default="")
    parser.add_argument("--certificate", default="")
    uvloop.run(serve(parser.parse_args()))
