"""The OpenAI dialect as this engine speaks it: what a request may hold, and how answers and errors are written.

What is asked for is honoured or refused; nothing that would change the answer is silently left out.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from detent.kernel.errors import DetentError, InvalidInput
from detent.serving.engines.tiny.generation import Sampling, Token
from detent.serving.engines.tiny.tokenizer import Tokenizer

MAX_STOPS = 4
_TYPES = {404: "invalid_request_error", 429: "rate_limit_error", 503: "server_error"}


class TextContent(msgspec.Struct, frozen=True):
    """A part of a message; only text is read."""

    type: str
    text: str = ""


class WireMessage(msgspec.Struct, frozen=True):
    """One message as sent."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[TextContent] | None = None


class StreamOptions(msgspec.Struct, frozen=True):
    """What a stream tells besides text."""

    include_usage: bool = False


class ResponseFormat(msgspec.Struct, frozen=True):
    """The form asked for."""

    type: str


class ChatBody(msgspec.Struct, frozen=True, kw_only=True):
    """A request for a chat completion. Fields not named here change nothing in an answer and are left alone."""

    model: str
    messages: Annotated[list[WireMessage], Meta(min_length=1, max_length=1000)]
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    n: Annotated[int, Meta(ge=1)] | None = 1
    max_tokens: Annotated[int, Meta(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Meta(ge=1)] | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    frequency_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    presence_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    logit_bias: dict[str, Annotated[float, Meta(ge=-100, le=100)]] | None = None
    logprobs: bool | None = False
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    response_format: ResponseFormat | None = None
    tools: list[Any] | None = None
    functions: list[Any] | None = None

    @property
    def wants_usage(self) -> bool:
        """Whether a stream ends with the usage."""
        return self.stream_options is not None and self.stream_options.include_usage


_DECODER = msgspec.json.Decoder(ChatBody)


def read_body(data: bytes) -> ChatBody:
    """Parse a request. Raises InvalidInput naming the field."""
    try:
        body = _DECODER.decode(data)
    except msgspec.ValidationError as error:
        reason, _, where = str(error).partition(" - at `$.")
        raise InvalidInput(f"The request is not valid: {reason}.", field=where.rstrip("`") or None) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidInput(f"The body is not valid JSON: {error}.", hint="Send a JSON object in UTF-8.") from None
    except RecursionError:
        raise InvalidInput("The body is nested too deeply.", hint="Send a flat chat request.") from None
    _refuse(body)
    return body


def conversation(body: ChatBody) -> list[tuple[str, str]]:
    """The messages as (role, text). Raises InvalidInput for what is not text."""
    found: list[tuple[str, str]] = []
    for index, message in enumerate(body.messages):
        if message.role in {"tool", "function"}:
            raise InvalidInput(
                "This model calls no tools and reads no results of tools.", field=f"messages[{index}].role"
            )
        if isinstance(message.content, list):
            other = next((part.type for part in message.content if part.type != "text"), None)
            if other is not None:
                raise InvalidInput(f"This model reads text only, not {other}.", field=f"messages[{index}].content")
            text = "".join(part.text for part in message.content)
        else:
            text = message.content or ""
        found.append((message.role, text))
    if all(role in {"system", "developer"} for role, _ in found):
        raise InvalidInput("There is no message to answer.", hint="Add one with the role `user`.", field="messages")
    return found


def sampling(body: ChatBody, vocabulary: int) -> Sampling:
    """How to choose tokens. The model's own default is greedy: it extracts, it does not invent."""
    stop = () if body.stop is None else (body.stop,) if isinstance(body.stop, str) else tuple(body.stop)
    if len(stop) > MAX_STOPS or not all(stop):
        raise InvalidInput(f"`stop` takes up to {MAX_STOPS} texts, none of them empty.", field="stop")
    try:
        bias = {int(token): amount for token, amount in (body.logit_bias or {}).items()}
    except ValueError:
        raise InvalidInput("`logit_bias` maps token ids to numbers.", field="logit_bias") from None
    if any(not 0 <= token < vocabulary for token in bias):
        raise InvalidInput(f"`logit_bias` names a token outside 0 to {vocabulary - 1}.", field="logit_bias")
    return Sampling(
        temperature=body.temperature or 0.0,
        top_p=body.top_p or 1.0,
        seed=None if body.seed is None else body.seed & (2**64 - 1),
        frequency_penalty=body.frequency_penalty or 0.0,
        presence_penalty=body.presence_penalty or 0.0,
        bias=bias,
        stop=stop,
        max_tokens=body.max_completion_tokens or body.max_tokens,
    )


def write_error(error: DetentError, *, param: str | None = None) -> dict[str, Any]:
    """OpenAI's shape of an error."""
    kind = _TYPES.get(error.status, "invalid_request_error" if error.status < 500 else "server_error")
    inner: dict[str, Any] = {"message": error.message, "type": kind, "param": param or error.field, "code": error.code}
    return {"error": {**inner, "hint": error.hint} if error.hint else inner}


def write_logprob(token: Token, tokenizer: Tokenizer) -> dict[str, Any]:
    """One entry of `logprobs.content`."""
    top = [_logprob(index, value, tokenizer) for index, value in token.top]
    return {**_logprob(token.id, token.logprob, tokenizer), "top_logprobs": top}


def _logprob(index: int, value: float, tokenizer: Tokenizer) -> dict[str, Any]:
    data = tokenizer.bytes[index]
    return {"token": data.decode("utf-8", "replace"), "logprob": max(value, -9999.0), "bytes": list(data)}


def _refuse(body: ChatBody) -> None:
    if (body.n or 1) > 1:
        raise InvalidInput("This engine gives one answer per request; `n` must be 1.", field="n")
    if body.tools or body.functions:
        raise InvalidInput("This model calls no tools.", hint="Leave out `tools`.", field="tools")
    if body.response_format and body.response_format.type not in {"text", "json_object"}:
        raise InvalidInput(
            f"This engine does not enforce {body.response_format.type}.",
            hint="The model answers compact JSON unless the system prompt asks for lines.",
            field="response_format",
        )
    if body.top_logprobs and not body.logprobs:
        raise InvalidInput("`top_logprobs` needs `logprobs` to be true.", field="top_logprobs")
