"""Endpoints that are passed on as they are: embeddings, moderation, rerank, audio, images.

The gateway reads of a request what it must know (the model, whether a stream is wanted) and replaces the model's name;
of an answer it reads the usage, where there is one. Bodies are JSON or multipart forms (RFC 7578).
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Final

import msgspec

from detent.gateway.answer import Said
from detent.gateway.body import check_json
from detent.gateway.errors import BadAnswer, MalformedBody
from detent.gateway.operations import Operation
from detent.gateway.sse import given, upstream_error
from detent.gateway.usage import read_usage
from detent.gateway.world import Deployment
from detent.kernel.chat import ChatRequest, Usage
from detent.kernel.errors import DetentError, InvalidInput

_BOUNDARY: Final = re.compile(rb'boundary=(?:"([^"\r\n]{1,70})"|([!-:<-~]{1,70}))', re.IGNORECASE)
_FIELD: Final = re.compile(rb'content-disposition:[^\r\n]*;\s*name="?model"?\s*(?:;|\r\n|$)', re.IGNORECASE)
_MAX_PART_HEAD: Final = 16 * 1024
_MAX_PARTS: Final = 256
_ABSENT: Final = msgspec.Raw()


class _Head(msgspec.Struct):
    model: Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
    stream: bool | None = None
    user: str | None = None


class _Answer(msgspec.Struct):
    id: str | None = None
    model: str | None = None
    usage: msgspec.Raw = _ABSENT
    error: msgspec.Raw = _ABSENT


_HEADS: Final = msgspec.json.Decoder(_Head)
_ANSWERS: Final = msgspec.json.Decoder(_Answer)


class ProxyBody:
    """A checked request for such an endpoint."""

    __slots__ = ("_end", "_fields", "_raw", "_start", "content_type", "model", "stream", "user")

    def __init__(self, raw: bytes, head: _Head, content_type: str, fields: dict[str, msgspec.Raw]) -> None:
        self.model = head.model
        self.stream = bool(head.stream)
        self.user = head.user or ""
        self.content_type = content_type
        self._raw = raw
        self._fields = fields
        self._start = self._end = 0

    @property
    def max_tokens(self) -> int | None:
        """Nobody asks for a limit here."""
        return None

    @property
    def answers(self) -> int:
        """One, as far as tokens go."""
        return 1

    @property
    def parameters(self) -> dict[str, Any]:
        """Attributes of the span: the few that have a name in the conventions."""
        found: dict[str, Any] = {}
        if (dimensions := self._fields.get("dimensions")) is not None and bytes(dimensions).isdigit():
            found["gen_ai.embeddings.dimension.count"] = int(bytes(dimensions)[:9])
        return found

    @property
    def messages(self) -> bytes:
        """The input's text as JSON, where there is one."""
        for name in ("input", "query", "prompt"):
            if name in self._fields:
                return bytes(self._fields[name])
        return b""

    def for_model(self, name: str, name_json: bytes) -> bytes:
        """The body with another model's name in it."""
        if self._end:
            return self._raw[: self._start] + name.encode() + self._raw[self._end :]
        if name == self.model:
            return self._raw
        return msgspec.json.encode({**self._fields, "model": msgspec.Raw(name_json)})

    def neutral(self) -> ChatRequest:
        """There is none: this is no chat."""
        raise InvalidInput("This endpoint cannot be translated.", hint="Use a provider that has it.", field="model")

    @classmethod
    def of_form(cls, raw: bytes, content_type: str) -> ProxyBody:
        """A multipart form, whose field `model` is looked for and whose other parts are not."""
        start, end = _model_field(raw, content_type)
        try:
            model = raw[start:end].decode()
        except UnicodeDecodeError:
            model = ""
        if not 0 < len(model) <= 256:
            raise InvalidInput("The form's field 'model' names no model.", hint="Send a route's name.", field="model")
        body = cls(raw, _Head(model), content_type, {})
        body._start, body._end = start, end
        return body


def read_proxied(raw: bytes, content_type: str, *, max_depth: int) -> ProxyBody:
    """Check a body.

    Raises:
        InvalidInput: it is neither a JSON object nor a multipart form with a model in it.
    """
    if content_type.lower().startswith("multipart/form-data"):
        return ProxyBody.of_form(raw, content_type)
    head, fields = check_json(raw, _HEADS, max_depth=max_depth)
    return ProxyBody(raw, head, "application/json", fields)


def _model_field(raw: bytes, content_type: str) -> tuple[int, int]:
    """Where the value of the form's field `model` begins and ends."""
    found = _BOUNDARY.search(content_type.encode("latin-1", "replace"))
    if found is None:
        raise MalformedBody("The form's content type has no boundary.", hint="Let your HTTP library write it.")
    mark = b"--" + (found[1] or found[2])
    at = raw.find(mark)
    if at != 0 and raw[max(at - 2, 0) : max(at, 0)] != b"\r\n":
        raise MalformedBody("The form does not begin with its boundary.", hint="Let your HTTP library write it.")
    for _ in range(_MAX_PARTS):
        head = at + len(mark) + 2
        if raw[head - 2 : head] != b"\r\n":
            break
        start = raw.find(b"\r\n\r\n", head - 2, head + _MAX_PART_HEAD) + 4
        end = raw.find(b"\r\n" + mark, max(start - 2, 0))
        if start < 4 or end < 0:
            raise MalformedBody("The form is cut short.", hint="Let your HTTP library write it.")
        if _FIELD.search(raw, head, start):
            return start, max(end, start)
        at = end + 2
    raise InvalidInput("The form has no field 'model'.", hint="Send a route's name.", field="model")


class RawStream:
    """An answer that is passed on as it comes, whatever it is."""

    __slots__ = ("begun", "characters", "done", "failure", "finish_reason", "id", "model", "opened", "usage")

    def __init__(self) -> None:
        self.begun = False
        self.opened = False
        self.done = False
        self.failure: DetentError | None = None
        self.finish_reason = ""
        self.id = ""
        self.model = ""
        self.usage: Usage | None = None
        self.characters = 0

    def feed(self, data: bytes) -> bytes:
        """All of it."""
        self.begun = self.opened = True
        self.finish_reason = "stop"  # a body that ends as HTTP says it should is complete
        return data

    def closing(self) -> bytes:
        """Nothing needs to be said."""
        return b""

    def output(self) -> bytes:
        """What was said is not text."""
        return b""


class Proxied:
    """Such a request on its way to a provider that has the same endpoint."""

    __slots__ = ("_body", "_deployment", "_operation", "hold")

    dropped: tuple[str, ...] = ()
    same = True

    def __init__(self, operation: Operation, body: ProxyBody, deployment: Deployment) -> None:
        self._operation = operation
        self._body = body
        self._deployment = deployment
        self.hold = False

    def request(self, traceparent: str) -> bytes:
        """The client's bytes, with the deployment's own name of the model."""
        deployment = self._deployment
        if deployment.dialect != "openai":
            raise InvalidInput(
                f"The provider '{deployment.provider}' has no endpoint for this.",
                hint="Choose a route whose provider speaks OpenAI's dialect.",
                field="model",
            )
        return deployment.request(
            self._operation.path,
            self._body.for_model(deployment.model, deployment.model_json),
            traceparent=traceparent,
            stream=self._body.stream,
            content_type=self._body.content_type,
        )

    def streams(self, headers: dict[bytes, bytes]) -> bool:
        """Anything but JSON is passed on as it comes."""
        return not headers.get(b"content-type", b"").lower().startswith(b"application/json")

    def whole(self, data: bytes) -> Said:
        """The provider's answer, looked into for its usage."""
        try:
            found = _ANSWERS.decode(data)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            raise BadAnswer("The provider's answer is no JSON object.") from None
        if given(found.error):
            raise upstream_error(bytes(found.error))
        usage = _usage(found.usage) if given(found.usage) else None
        if usage is None and not self._operation.by_tokens:
            usage = Usage()
        return Said(data, found.id or "", found.model or "", b"", 0, "", usage)

    def stream(self, keep: int) -> RawStream:
        """The provider's bytes."""
        del keep
        return RawStream()

    def error_event(self, error: DetentError) -> bytes | None:
        """There is no word for it: the connection is cut, so that nobody takes the answer for complete."""
        del error
        return None


class _MediaUsage(msgspec.Struct):
    input_tokens: Annotated[int, msgspec.Meta(ge=0, le=2**40)]
    output_tokens: Annotated[int, msgspec.Meta(ge=0, le=2**40)] = 0


def _usage(raw: msgspec.Raw) -> Usage | None:
    """Usage as embeddings have it, or as images and transcriptions do."""
    found = read_usage(raw)
    if found is not None:
        return found
    try:
        media = msgspec.json.decode(raw, type=_MediaUsage)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return Usage(media.input_tokens, media.output_tokens)
