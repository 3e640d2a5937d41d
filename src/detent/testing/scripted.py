"""A model that answers what a test tells it to, over real HTTP in the OpenAI dialect, streamed too."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, NamedTuple, Self

_CREATED = 1_767_225_600


class Fault(NamedTuple):
    """An answer that is an error: an HTTP status, and perhaps seconds for `Retry-After`."""

    status: int
    message: str = "scripted fault"
    retry_after: int | None = None


Answer = str | Fault


class _Server(ThreadingHTTPServer):
    """With room for many who come at once."""

    request_queue_size = 256


class ScriptedModel:
    """Serves `/v1/chat/completions` and `/v1/models` on a free loopback port while used as a context manager.

    Tokens are counted as words, so that expectations can be written down by hand.

    Args:
        answers: given one after the other, the last one again and again; or a function of the request's JSON.

    Attributes:
        calls: the JSON of each request, in order of arrival.
        headers: the headers of each, names in lower case.
    """

    def __init__(self, answers: Iterable[Answer] | Callable[[dict[str, Any]], Answer] = ("Hello.",)) -> None:
        self.calls: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self._answer = answers if callable(answers) else _in_turn(tuple(answers))
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    @property
    def url(self) -> str:
        """The base URL to give to a client or a provider."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def take(self, call: dict[str, Any], headers: dict[str, str]) -> Answer:
        """Note a call and choose its answer."""
        with self._lock:
            self.calls.append(call)
            self.headers.append(headers)
            return self._answer(call)


def _in_turn(answers: tuple[Answer, ...]) -> Callable[[dict[str, Any]], Answer]:
    if not answers:
        raise ValueError("a scripted model needs an answer")
    waiting = list(answers)
    return lambda _call: waiting.pop(0) if len(waiting) > 1 else waiting[0]


def _handler(model: ScriptedModel) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._send(200, {"object": "list", "data": [{"id": "scripted", "object": "model", "owned_by": "test"}]})

        def do_POST(self) -> None:
            call = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)))
            answer = model.take(call, {name.lower(): value for name, value in self.headers.items()})
            if isinstance(answer, Fault):
                again = {"Retry-After": str(answer.retry_after)} if answer.retry_after is not None else {}
                self._send(answer.status, {"error": {"message": answer.message, "type": "scripted"}}, again)
            elif call.get("stream"):
                self._stream(call, answer)
            else:
                choice = {"index": 0, "message": {"role": "assistant", "content": answer}, "finish_reason": "stop"}
                self._send(200, _body(call, "chat.completion", [choice], _usage(call, answer)))

        def _send(self, status: int, body: dict[str, Any], headers: dict[str, str] | None = None) -> None:
            data = json.dumps(body).encode()
            self.send_response(status)
            for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def _stream(self, call: dict[str, Any], answer: str) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for event in _events(call, answer):
                data = f"data: {event}\n\n".encode()
                self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
                self.wfile.flush()
            self.wfile.write(b"0\r\n\r\n")

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing: the test's output is the test's."""

    return Handler


def _events(call: dict[str, Any], answer: str) -> Iterator[str]:
    words = answer.split(" ")
    for number, word in enumerate(words):
        text = word if number == 0 else f" {word}"
        delta = {"role": "assistant", "content": text} if number == 0 else {"content": text}
        choice = {"index": 0, "delta": delta, "finish_reason": None}
        yield json.dumps(_body(call, "chat.completion.chunk", [choice]))
    end = {"index": 0, "delta": {}, "finish_reason": "stop"}
    yield json.dumps(_body(call, "chat.completion.chunk", [end]))
    if (call.get("stream_options") or {}).get("include_usage"):
        yield json.dumps(_body(call, "chat.completion.chunk", [], _usage(call, answer)))
    yield "[DONE]"


def _body(
    call: dict[str, Any], kind: str, choices: list[dict[str, Any]], usage: dict[str, int] | None = None
) -> dict[str, Any]:
    body = {"id": "chatcmpl-scripted", "object": kind, "created": _CREATED, "model": call.get("model", "scripted")}
    return {**body, "choices": choices, **({"usage": usage} if usage else {})}


def _usage(call: dict[str, Any], answer: str) -> dict[str, int]:
    asked = sum(len(str(message.get("content") or "").split()) for message in call.get("messages") or ())
    told = len(answer.split())
    return {"prompt_tokens": asked, "completion_tokens": told, "total_tokens": asked + told}
