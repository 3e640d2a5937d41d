"""The engine process: OpenAI's chat completions over HTTP, for one small model on one core.

There are no threads. An answer is made in slices of about two milliseconds between which every other connection has
its turn, so a health check waits no longer than the slices of those that are being answered.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import secrets
import signal
import socket
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import uvicorn
from uvicorn._types import ASGIReceiveCallable, ASGISendCallable, Scope

from detent.kernel.errors import DetentError, InvalidInput, MethodNotAllowed, NotFound, TooLarge, Unavailable
from detent.serving.engines.tiny import NAME
from detent.serving.engines.tiny.dialect import ChatBody, conversation, read_body, sampling, write_error, write_logprob
from detent.serving.engines.tiny.generation import Generation, Piece, Tiny
from detent.serving.engines.tiny.runtime import DATA

SLICE = 0.002
_JSON = [(b"content-type", b"application/json")]
_EVENTS = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]

log = logging.getLogger("detent.engine")


@dataclass(frozen=True, slots=True)
class Limits:
    """What the engine takes on.

    Attributes:
        inflight: answers in the making at once; one more is told to come back.
        body: bytes of a request.
        pace: least seconds between two tokens, for demonstrations of streams; 0 for as fast as it goes.
    """

    inflight: int = 256
    body: int = 1024 * 1024
    pace: float = 0.0


class Engine:
    """The ASGI application."""

    def __init__(self, model: Tiny, *, limits: Limits = Limits(), fingerprint: str = "", born: int = 0) -> None:
        self._model = model
        self._limits = limits
        self._fingerprint = fingerprint
        self._born = born
        self._busy = 0

    async def __call__(self, scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        """Answer one request; every refusal has OpenAI's shape."""
        if scope["type"] != "http":
            return
        reply = _Reply(send)
        try:
            await self._route(scope["method"], scope["path"], receive, reply)
        except DetentError as error:
            await reply.fail(error)

    async def _route(self, method: str, path: str, receive: ASGIReceiveCallable, reply: _Reply) -> None:
        if path == "/v1/chat/completions":
            _allow(method, "POST")
            body = read_body(await self._body(receive))
            await self._chat(body, receive, reply)
        elif path == "/v1/models":
            _allow(method, "GET")
            await reply.whole({"object": "list", "data": [self._listed(name) for name in self._names()]})
        elif path.startswith("/v1/models/"):
            _allow(method, "GET")
            await reply.whole(self._listed(self._known(path.removeprefix("/v1/models/"))))
        elif path == "/healthz":
            _allow(method, "GET")
            await reply.whole({"status": "ok", "model": NAME, "busy": self._busy})
        else:
            raise NotFound(f"There is nothing at {path}.", hint="Try /v1/chat/completions or /v1/models.")

    async def _chat(self, body: ChatBody, receive: ASGIReceiveCallable, reply: _Reply) -> None:
        name = self._known(body.model)
        how = sampling(body, self._model.tokenizer.size)
        alternatives = (body.top_logprobs or 0) if body.logprobs else None
        adapter = "" if name == NAME else name
        generation = self._model.begin(conversation(body), how, adapter=adapter, logprobs=alternatives)
        if self._busy >= self._limits.inflight:
            raise Unavailable("The engine is busy.", hint="Try again in a moment.", retry_after=1)
        head = {
            "id": f"chatcmpl-{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": name,
            "system_fingerprint": self._fingerprint,
        }
        gone = asyncio.ensure_future(_disconnected(receive))
        self._busy += 1
        try:
            work = self._stream if body.stream else self._whole
            await work(generation, head, body, reply, gone)
        finally:
            self._busy -= 1
            gone.cancel()

    async def _whole(
        self, generation: Generation, head: dict[str, Any], body: ChatBody, reply: _Reply, gone: asyncio.Future[None]
    ) -> None:
        texts: list[str] = []
        told: list[dict[str, Any]] = []
        turn = _Turn(self._limits.pace)
        for piece in generation:
            texts.append(piece.text)
            if body.logprobs and piece.token:
                told.append(write_logprob(piece.token, self._model.tokenizer))
            if await turn.over(piece) and gone.done():
                return
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": "".join(texts), "refusal": None},
            "logprobs": {"content": told, "refusal": None} if body.logprobs else None,
            "finish_reason": generation.finish,
        }
        await reply.whole({**head, "object": "chat.completion", "choices": [choice], "usage": _usage(generation)})

    async def _stream(
        self, generation: Generation, head: dict[str, Any], body: ChatBody, reply: _Reply, gone: asyncio.Future[None]
    ) -> None:
        head = {**head, "object": "chat.completion.chunk"}
        tail = {"usage": None} if body.wants_usage else {}

        async def say(delta: dict[str, Any], finish: str | None = None, logprobs: dict[str, Any] | None = None) -> None:
            choice = {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
            await reply.event({**head, "choices": [choice], **tail})

        await say({"role": "assistant", "content": "", "refusal": None})
        turn = _Turn(self._limits.pace)
        for piece in generation:
            told = None
            if body.logprobs and piece.token:
                told = {"content": [write_logprob(piece.token, self._model.tokenizer)], "refusal": None}
            if piece.text or told:
                await say({"content": piece.text}, logprobs=told)
            if await turn.over(piece) and gone.done():
                return
        await say({}, generation.finish)
        if body.wants_usage:
            await reply.event({**head, "choices": [], "usage": _usage(generation)})
        await reply.done()

    async def _body(self, receive: ASGIReceiveCallable) -> bytes:
        chunks: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] != "http.request":
                raise InvalidInput("The request ended before its body was complete.")
            chunks.append(message["body"])
            size += len(message["body"])
            if size > self._limits.body:
                raise TooLarge(
                    f"The body is larger than {self._limits.body} bytes.", hint="Send a shorter conversation."
                )
            if not message["more_body"]:
                return b"".join(chunks)

    def _names(self) -> tuple[str, ...]:
        return (NAME, *self._model.adapters)

    def _known(self, name: str) -> str:
        if name not in self._names():
            raise NotFound(
                f"The model {name!r} is not served here.", hint=f"Served: {', '.join(self._names())}.", field="model"
            )
        return name

    def _listed(self, name: str) -> dict[str, Any]:
        model = {"id": name, "object": "model", "created": self._born, "owned_by": "detent", "root": NAME}
        model["max_model_len"] = self._model.llama.shape.context
        return model if name == NAME else {**model, "parent": NAME}


class _Reply:
    """Writes one HTTP answer: whole, or as server-sent events."""

    def __init__(self, send: ASGISendCallable) -> None:
        self._send = send
        self._begun = False

    async def whole(self, tree: Any, status: int = 200, headers: list[tuple[bytes, bytes]] = _JSON) -> None:
        data = msgspec.json.encode(tree)
        headers = [*headers, (b"content-length", str(len(data)).encode())]
        await self._send({"type": "http.response.start", "status": status, "headers": headers, "trailers": False})
        await self._send({"type": "http.response.body", "body": data, "more_body": False})

    async def event(self, tree: Any) -> None:
        if not self._begun:
            self._begun = True
            await self._send({"type": "http.response.start", "status": 200, "headers": _EVENTS, "trailers": False})
        data = b"data: " + msgspec.json.encode(tree) + b"\n\n"
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def done(self) -> None:
        await self._send({"type": "http.response.body", "body": b"data: [DONE]\n\n", "more_body": False})

    async def fail(self, error: DetentError) -> None:
        headers = list(_JSON)
        if error.retry_after is not None:
            headers.append((b"retry-after", str(int(error.retry_after)).encode()))
        await self.whole(write_error(error), error.status, headers)


class _Turn:
    """Lets others have their turn when a slice is used up, or after every token when a pace is set."""

    def __init__(self, pace: float) -> None:
        self._pace = pace
        self._since = time.monotonic()

    async def over(self, piece: Piece) -> bool:
        """Whether others had a turn just now."""
        if self._pace and piece.token:
            await asyncio.sleep(self._pace)
        elif time.monotonic() - self._since < SLICE:
            return False
        else:
            await asyncio.sleep(0)
        self._since = time.monotonic()
        return True


def _allow(method: str, allowed: str) -> None:
    if method != allowed and (method, allowed) != ("HEAD", "GET"):
        raise MethodNotAllowed(f"This path answers {allowed} only.")


async def _disconnected(receive: ASGIReceiveCallable) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _usage(generation: Generation) -> dict[str, int]:
    prompt, completion = generation.prompt_tokens, generation.completion_tokens
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def load(folder: Path = DATA, adapters: Mapping[str, Path] | None = None, *, limits: Limits = Limits()) -> Engine:
    """The engine on a model folder; the fingerprint tells the weights and adapters that answer."""
    model = Tiny.load(folder, adapters)
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes())
    for path in (adapters or {}).values():
        digest.update((path / "adapter_model.safetensors").read_bytes())
    born = int((folder / "model.safetensors").stat().st_mtime)
    return Engine(model, limits=limits, fingerprint=f"fp_{digest.hexdigest()[:10]}", born=born)


def serve(engine: Engine, listener: socket.socket, *, drain: float) -> None:
    """Answer until SIGTERM or SIGINT, then finish what was begun, for `drain` seconds at most."""
    config = uvicorn.Config(
        engine,
        loop="uvloop",
        http="httptools",
        ws="none",
        lifespan="off",
        access_log=False,
        log_config=None,
        log_level="warning",
        server_header=False,
        timeout_graceful_shutdown=max(1, round(drain)),
    )
    host, port = listener.getsockname()[:2]
    log.info("ready on http://%s:%d/v1", host, port)
    _Server(config).run(sockets=[listener])
    log.info("stopped")


class _Server(uvicorn.Server):
    """uvicorn, but a stop that was asked for is a clean exit and not a death by signal."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop, number)
        yield

    def _stop(self, number: int) -> None:
        log.info("draining after %s", signal.Signals(number).name)
        self.handle_exit(number, None)
