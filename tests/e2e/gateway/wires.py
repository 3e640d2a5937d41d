"""What providers of each dialect send and clients of each understand, for the failure matrix.

Written from the makers' references, without Detent's own readers and writers: those are what is tested.
"""

from __future__ import annotations

import json
import struct
from typing import Any, Final, Literal
from zlib import crc32

USAGE: Final = (10, 5)
"""Input and output tokens that a provider reports, unless told otherwise."""

CHUNKED: Final = "HTTP/1.1 200 OK\r\ncontent-type: {}\r\ntransfer-encoding: chunked\r\n\r\n"
SAID: Final = "quota"
"""The words of a provider's error."""

HI: Final = [{"role": "user", "content": "Hi!!"}]


class Wire:
    """What a provider sends. This one speaks OpenAI's chat completions.

    Attributes:
        dialect, flavour: as a provider is configured.
        base: path of its base URL.
        tells_prompt: whether a stream says how many tokens the prompt has before it says anything else.
        last: what its last event is called, where it may forget it; empty where there is none.
    """

    dialect = "openai"
    flavour = ""
    base = "/v1"
    content_type = "text/event-stream"
    tells_prompt = False
    last = "`[DONE]`"

    def __init__(self, flavour: str = "") -> None:
        self.flavour = flavour

    def head(self) -> bytes:
        return CHUNKED.format(self.content_type).encode()

    def role(self) -> bytes:
        """How a stream begins: no output yet."""
        return self._chunk({"role": "assistant", "content": ""})

    def text(self, words: str) -> bytes:
        return self._chunk({"content": words})

    def finish(self, usage: Any = USAGE) -> bytes:
        """All that follows the text; no usage for None, wrong usage for text."""
        told = b""
        if usage is not None:
            prompt, completion = usage if isinstance(usage, tuple) else (usage, usage)
            counts = {"prompt_tokens": prompt, "completion_tokens": completion}
            told = self._event({"id": "c1", "choices": [], "usage": counts})
        return self.unsaid() + told + b"data: [DONE]\n\n"

    def unsaid(self) -> bytes:
        """The end of the answer, without the stream's."""
        return self._chunk({}, "stop")

    def fault(self) -> bytes:
        """An error within a stream."""
        return self._event({"error": {"message": SAID, "type": "server_error"}})

    def broken(self) -> bytes:
        """An event that nobody can read."""
        return b'data: {"cho\n\n'

    def endless(self) -> list[bytes]:
        """An event that does not end."""
        return [b"data: ", *[b"x" * 1_000_000] * 20]

    def whole(self, words: str, usage: Any = USAGE) -> bytes:
        prompt, completion = usage
        return json.dumps(
            {
                "id": "c1",
                "object": "chat.completion",
                "model": "real-7",
                "choices": [{"index": 0, "message": {"role": "assistant", "content": words}, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": prompt, "completion_tokens": completion},
            }
        ).encode()

    def error(self, status: int) -> bytes:
        """The body of an error; of one with status 200 too."""
        return json.dumps({"error": {"message": SAID, "code": status}}).encode()

    def _chunk(self, delta: dict[str, Any], finish: str | None = None) -> bytes:
        return self._event(
            {
                "id": "c1",
                "object": "chat.completion.chunk",
                "model": "real-7",
                "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
            }
        )

    def _event(self, found: dict[str, Any]) -> bytes:
        return b"data: " + json.dumps(found).encode() + b"\n\n"


class AnthropicWire(Wire):
    """Source: https://platform.claude.com/docs/en/build-with-claude/streaming"""

    dialect = "anthropic"
    base = ""
    tells_prompt = True
    last = "`message_stop`"

    def role(self) -> bytes:
        message = {**self._message([]), "stop_reason": None, "usage": {"input_tokens": 10, "output_tokens": 1}}
        block = {"type": "text", "text": ""}
        return (
            self._named("message_start", message=message)
            + self._named("content_block_start", index=0, content_block=block)
            + self._named("ping")
        )

    def text(self, words: str) -> bytes:
        return self._named("content_block_delta", index=0, delta={"type": "text_delta", "text": words})

    def finish(self, usage: Any = USAGE) -> bytes:
        found = {}
        if usage is not None:
            found = {"usage": {"output_tokens": usage[1] if isinstance(usage, tuple) else usage}}
        return self._end(**found) + self._named("message_stop")

    def unsaid(self) -> bytes:
        return self._end()

    def fault(self) -> bytes:
        return self._named("error", error={"type": "overloaded_error", "message": SAID})

    def broken(self) -> bytes:
        return b'event: content_block_delta\ndata: {"type": "content_bl\n\n'

    def endless(self) -> list[bytes]:
        return [b"event: content_block_delta\n", *super().endless()]

    def whole(self, words: str, usage: Any = USAGE) -> bytes:
        message = self._message([{"type": "text", "text": words}])
        return json.dumps({**message, "usage": {"input_tokens": usage[0], "output_tokens": usage[1]}}).encode()

    def error(self, status: int) -> bytes:
        kind = {400: "invalid_request_error", 429: "rate_limit_error"}.get(status, "api_error")
        return json.dumps({"type": "error", "error": {"type": kind, "message": SAID}}).encode()

    def _message(self, content: list[Any]) -> dict[str, Any]:
        return {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "model": "real-7",
            "content": content,
            "stop_reason": "end_turn",
            "stop_sequence": None,
        }

    def _end(self, **more: Any) -> bytes:
        delta = {"stop_reason": "end_turn", "stop_sequence": None}
        return self._named("content_block_stop", index=0) + self._named("message_delta", delta=delta, **more)

    def _named(self, kind: str, **fields: Any) -> bytes:
        return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n".encode()


class GeminiWire(Wire):
    """Source: https://ai.google.dev/api/generate-content"""

    dialect = "gemini"
    base = "/v1beta"
    tells_prompt = True
    last = ""

    def role(self) -> bytes:
        return self.text("")

    def text(self, words: str) -> bytes:
        return self._response(self._candidate(words), 10, 1)

    def finish(self, usage: Any = USAGE) -> bytes:
        candidate = {**self._candidate(""), "finishReason": "STOP"}
        if usage is None:
            return self._event({"candidates": [candidate]})
        counts = usage if isinstance(usage, tuple) else (usage, usage)
        return self._response(candidate, *counts)

    def fault(self) -> bytes:
        return b"data: " + self.error(500) + b"\r\n\r\n"

    def broken(self) -> bytes:
        return b'data: {"candidates": [{\r\n\r\n'

    def whole(self, words: str, usage: Any = USAGE) -> bytes:
        candidate = {**self._candidate(words), "finishReason": "STOP"}
        counts = {"promptTokenCount": usage[0], "candidatesTokenCount": usage[1]}
        return json.dumps({"candidates": [candidate], "usageMetadata": counts, "modelVersion": "real-7"}).encode()

    def error(self, status: int) -> bytes:
        word = {400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 429: "RESOURCE_EXHAUSTED"}.get(status, "INTERNAL")
        return json.dumps({"error": {"code": status, "message": SAID, "status": word}}).encode()

    def _candidate(self, words: str) -> dict[str, Any]:
        return {"content": {"role": "model", "parts": [{"text": words}]}, "index": 0}

    def _response(self, candidate: dict[str, Any], prompt: Any, output: Any) -> bytes:
        usage = {"promptTokenCount": prompt, "candidatesTokenCount": output}
        return self._event(
            {"candidates": [candidate], "usageMetadata": usage, "modelVersion": "real-7", "responseId": "r1"}
        )

    def _event(self, found: dict[str, Any]) -> bytes:
        return b"data: " + json.dumps(found).encode() + b"\r\n\r\n"


class BedrockWire(Wire):
    """Source: https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_ConverseStream.html"""

    dialect = "bedrock"
    base = ""
    content_type = "application/vnd.amazon.eventstream"
    last = "`metadata`"

    def role(self) -> bytes:
        return self._frame("messageStart", role="assistant")

    def text(self, words: str) -> bytes:
        return self._frame("contentBlockDelta", contentBlockIndex=0, delta={"text": words})

    def finish(self, usage: Any = USAGE) -> bytes:
        counts = {}
        if usage is not None:
            inputs, outputs = usage if isinstance(usage, tuple) else (usage, usage)
            counts = {"usage": {"inputTokens": inputs, "outputTokens": outputs}}
        return self.unsaid() + self._frame("metadata", metrics={"latencyMs": 1}, **counts)

    def unsaid(self) -> bytes:
        return self._frame("contentBlockStop", contentBlockIndex=0) + self._frame("messageStop", stopReason="end_turn")

    def fault(self) -> bytes:
        return self._frame("internalServerException", "exception", message=SAID)

    def broken(self) -> bytes:
        good = bytearray(self.text("never seen"))
        good[-1] ^= 1  # its checksum
        return bytes(good)

    def endless(self) -> list[bytes]:
        lengths = struct.pack(">II", 2**31, 0)
        return [lengths + struct.pack(">I", crc32(lengths)), *[b"x" * 1_000_000] * 20]

    def whole(self, words: str, usage: Any = USAGE) -> bytes:
        return json.dumps(
            {
                "output": {"message": {"role": "assistant", "content": [{"text": words}]}},
                "stopReason": "end_turn",
                "usage": {"inputTokens": usage[0], "outputTokens": usage[1]},
            }
        ).encode()

    def error(self, status: int) -> bytes:
        return json.dumps({"message": SAID}).encode()

    def _frame(self, kind: str, form: str = "event", **payload: Any) -> bytes:
        named = {f":{form}-type": kind, ":content-type": "application/json", ":message-type": form}
        headers = b"".join(
            struct.pack(">B", len(name)) + name.encode() + struct.pack(">BH", 7, len(value)) + value.encode()
            for name, value in named.items()
        )
        body = json.dumps(payload).encode()
        lengths = struct.pack(">II", 16 + len(headers) + len(body), len(headers))
        found = lengths + struct.pack(">I", crc32(lengths)) + headers + body
        return found + struct.pack(">I", crc32(found))


class ResponsesWire(Wire):
    """OpenAI's Responses API. Source: https://platform.openai.com/docs/api-reference/responses-streaming"""

    last = ""

    def role(self) -> bytes:
        return self._named("response.created", response=self._response("in_progress")) + self._named(
            "response.in_progress", response=self._response("in_progress")
        )

    def text(self, words: str) -> bytes:
        return self._named(
            "response.output_text.delta", item_id="msg_1", output_index=0, content_index=0, delta=words, logprobs=[]
        )

    def finish(self, usage: Any = USAGE) -> bytes:
        return self._named("response.completed", response=self._response("completed", "", usage))

    def fault(self) -> bytes:
        error = {"code": "server_error", "message": SAID}
        return self._named("response.failed", response={**self._response("failed"), "error": error})

    def broken(self) -> bytes:
        return b'event: response.output_text.delta\ndata: {"type": "resp\n\n'

    def whole(self, words: str, usage: Any = USAGE) -> bytes:
        return json.dumps(self._response("completed", words, usage)).encode()

    def _response(self, status: str, words: str = "", usage: Any = None) -> dict[str, Any]:
        content = [{"type": "output_text", "text": words, "annotations": []}]
        message = {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": content}
        counts = usage if isinstance(usage, tuple) else (usage, usage)
        return {
            "id": "resp_0123456789",
            "object": "response",
            "created_at": 1,
            "status": status,
            "model": "real-7",
            "output": [message] if words else [],
            "usage": None if usage is None else {"input_tokens": counts[0], "output_tokens": counts[1]},
        }

    def _named(self, kind: str, **fields: Any) -> bytes:
        return f"event: {kind}\ndata: {json.dumps({'type': kind, 'sequence_number': 0, **fields})}\n\n".encode()


class EmbeddingsWire(Wire):
    """Only in one piece."""

    def whole(self, words: str, usage: Any = USAGE) -> bytes:
        data = [{"object": "embedding", "index": 0, "embedding": words}]
        found = {"object": "list", "model": "real-7", "data": data, "usage": {"prompt_tokens": usage[0]}}
        return json.dumps(found).encode()


class SpeechWire(Wire):
    """Sound, as it comes."""

    content_type = "audio/mpeg"

    def role(self) -> bytes:
        return b""

    def text(self, words: str) -> bytes:
        return words.encode()


class Client:
    """What a client sends and understands. This one speaks OpenAI's chat completions.

    Attributes:
        prompt: what is estimated of its request.
        end: what says that a stream is complete.
        types: of errors, by status.
    """

    path = "/v1/chat/completions"
    auth = "authorization"
    prompt = json.dumps(HI).encode()
    end = b"data: [DONE]\n\n"
    types: Final[dict[int, str]] = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
    sees: Literal["events", "bytes"] = "events"

    def body(self, model: str, *, stream: bool) -> bytes:
        return json.dumps({"model": model, "messages": HI, "stream": stream}).encode()

    def text(self, body: bytes) -> str:
        """The text of an answer in one piece."""
        return str(json.loads(body)["choices"][0]["message"]["content"])

    def streamed(self, body: bytes) -> str:
        """The text of a stream, up to its end or its error."""
        return "".join(e["choices"][0]["delta"].get("content") or "" for e in events(body) if e.get("choices"))

    def error(self, body: bytes) -> tuple[str, str, str]:
        """Type, code and message of an error in one piece."""
        error = json.loads(body)["error"]
        return error["type"], error["code"], error["message"]

    def fault(self, body: bytes) -> tuple[str, str, str]:
        """Type, code and message of the error that a stream ends with."""
        return self.error(json.dumps(events(body)[-1]).encode())

    def type_of(self, status: int) -> str:
        return self.types.get(status) or ("invalid_request_error" if status < 500 else "api_error")


class AnthropicClient(Client):
    path = "/v1/messages"
    auth = "x-api-key"
    end = b"event: message_stop\n"
    types: Final[dict[int, str]] = {
        400: "invalid_request_error",
        401: "authentication_error",
        403: "permission_error",
        404: "not_found_error",
        413: "request_too_large",
        429: "rate_limit_error",
        503: "overloaded_error",
        504: "timeout_error",
    }

    def body(self, model: str, *, stream: bool) -> bytes:
        return json.dumps({"model": model, "max_tokens": 99, "messages": HI, "stream": stream}).encode()

    def text(self, body: bytes) -> str:
        return str(json.loads(body)["content"][0]["text"])

    def streamed(self, body: bytes) -> str:
        return "".join(e["delta"]["text"] for e in events(body) if e["type"] == "content_block_delta")

    def error(self, body: bytes) -> tuple[str, str, str]:
        found = json.loads(body)
        assert found["type"] == "error"
        error = found["error"]
        return error["type"], error["details"]["error_code"], error["message"]


class ResponsesClient(Client):
    path = "/v1/responses"
    prompt = b'[{"type":"message","role":"user","content":"Hi!!"}]'
    end = b"event: response.completed\n"

    def body(self, model: str, *, stream: bool) -> bytes:
        return json.dumps({"model": model, "input": "Hi!!", "store": False, "stream": stream}).encode()

    def text(self, body: bytes) -> str:
        found = json.loads(body)
        assert found["status"] == "completed"
        return "".join(part["text"] for item in found["output"] for part in item["content"])

    def streamed(self, body: bytes) -> str:
        return "".join(e["delta"] for e in events(body) if e["type"] == "response.output_text.delta")

    def fault(self, body: bytes) -> tuple[str, str, str]:
        found = events(body)[-1]
        assert (found["type"], found["code"], found["message"]) == (
            "error",
            found["error"]["code"],
            found["error"]["message"],
        )
        return found["error"]["type"], found["code"], found["message"]


class EmbeddingsClient(Client):
    path = "/v1/embeddings"
    prompt = b'"Hi!!"'

    def body(self, model: str, *, stream: bool) -> bytes:
        return json.dumps({"model": model, "input": "Hi!!"}).encode()

    def text(self, body: bytes) -> str:
        return str(json.loads(body)["data"][0]["embedding"])


class SpeechClient(EmbeddingsClient):
    path = "/v1/audio/speech"
    sees = "bytes"

    def text(self, body: bytes) -> str:
        return body.decode()

    def streamed(self, body: bytes) -> str:
        return body.decode()


def events(body: bytes) -> list[Any]:
    """The data of each event but the last word of OpenAI's."""
    assert body.endswith(b"\n\n"), body[-200:]
    found = []
    for event in body.decode().split("\n\n")[:-1]:
        data = event.rpartition("data: ")[2]
        if data != "[DONE]":
            found.append(json.loads(data))
    return found
