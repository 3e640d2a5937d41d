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
_BOUNDARIES: Final = re.compile(rb"boundary[*\d\s]*=", re.IGNORECASE)
_DISPOSITION: Final = re.compile(rb"content-disposition\s*:", re.IGNORECASE)
_NAME: Final = re.compile(rb';\s*name([*\d]*)\s*=\s*("(?:[^"\\]|\\.)*"|[^;\s]*)', re.IGNORECASE)
_MAX_PART_HEAD: Final = 16 * 1024
_MAX_PARTS: Final = 256
_MAX_LINE: Final = 1024 * 1024
_LIBRARY: Final = "Let your HTTP library write it."
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
        """As text completions have it; the others know no such limit."""
        found = bytes(self._fields.get("max_tokens", _ABSENT))
        return int(found) if found.isdigit() and len(found) < 10 else None

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
    """Where the value of the form's field `model` begins and ends.

    A form that somebody else might read in another way is refused: else the model that was checked and priced here
    need not be the one that is called there.
    """
    said = content_type.encode("latin-1", "replace")
    found = _BOUNDARY.search(said)
    if found is None or len(_BOUNDARIES.findall(said)) != 1:
        raise MalformedBody("The form's content type has no boundary, or several.", hint=_LIBRARY)
    mark = b"--" + (found[1] or found[2])
    place: tuple[int, int] | None = None
    at = raw.find(mark)
    if at != 0 and raw[max(at - 2, 0) : max(at, 0)] != b"\r\n":
        raise MalformedBody("The form does not begin with its boundary.", hint=_LIBRARY)
    for _ in range(_MAX_PARTS):
        head = at + len(mark) + 2
        if raw[head - 2 : head] == b"--":
            break
        start = raw.find(b"\r\n\r\n", head - 2, head + _MAX_PART_HEAD) + 4
        end = raw.find(b"\r\n" + mark, max(start - 2, 0))
        if start < 4 or end < 0 or raw[head - 2 : head] != b"\r\n":
            raise MalformedBody("The form is cut short.", hint=_LIBRARY)
        if _name(raw[head : start - 4]) == b"model":
            if place is not None:
                raise InvalidInput("The form has two fields 'model'.", hint="Send one.", field="model")
            place = start, max(end, start)
        at = end + 2
    else:
        raise MalformedBody(f"The form has more than {_MAX_PARTS} parts.", hint="Send fewer.")
    if place is None:
        raise InvalidInput("The form has no field 'model'.", hint="Send a route's name.", field="model")
    return place


def _name(head: bytes) -> bytes:
    """The name of the field whose part has this head; empty where it has none."""
    lines = head.split(b"\r\n")
    said = [line for line in lines if _DISPOSITION.match(line)]
    names = [found for line in said for found in _NAME.findall(line)]
    folded = any(line[:1] in (b" ", b"\t") for line in lines)
    if folded or len(said) > 1 or len(names) > 1 or any(star or b"\\" in name for star, name in names):
        raise MalformedBody("A part of the form is named in more than one way.", hint=_LIBRARY)
    return b"".join(name.strip(b'"') for _, name in names)


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


class _Text(msgspec.Struct):
    text: str | None = None


class _TextChunk(msgspec.Struct):
    id: str | None = None
    model: str | None = None
    choices: list[_Text] | None = None
    usage: msgspec.Raw = _ABSENT


_TEXTS: Final = msgspec.json.Decoder(_TextChunk)


class TextStream(RawStream):
    """Events that are passed on as they come, and looked into for what they cost: a streamed text completion."""

    __slots__ = ("_tail",)

    def __init__(self) -> None:
        super().__init__()
        self._tail = b""

    def feed(self, data: bytes) -> bytes:
        """All of it."""
        *lines, tail = (self._tail + data).split(b"\n")
        self._tail = tail if len(tail) <= _MAX_LINE else b""
        for line in lines:
            if line.startswith(b"data:"):
                self._look(line[5:].strip())
        return super().feed(data)

    def _look(self, data: bytes) -> None:
        try:
            chunk = _TEXTS.decode(data)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return
        self.id, self.model = self.id or chunk.id or "", self.model or chunk.model or ""
        self.characters += sum(len(choice.text or "") for choice in chunk.choices or ())
        if given(chunk.usage):
            self.usage = _usage(chunk.usage) or self.usage


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
        """Anything but JSON is passed on as it comes; a page is of somebody else, such as a proxy in between."""
        kind = headers.get(b"content-type", b"").lower()
        if kind.startswith(b"text/html"):
            raise BadAnswer("The provider answered with a page.")
        return not kind.startswith(b"application/json")

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
        return TextStream() if self._body.stream and self._operation.by_tokens else RawStream()

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
