"""What makes OpenAI-compatible providers differ from OpenAI: a table, not a class each.

Sources are the providers' own API references. Where a provider serves many models, the row says what holds for all of
them: what only some take is left out of translated requests and named as dropped, while a request in the provider's own
dialect goes through as its client wrote it.
"""

from __future__ import annotations

from typing import Final, Literal
from urllib.parse import quote

import msgspec

from detent.kernel.chat import Effort

ReasoningStyle = Literal["", "effort", "object"]
"""How thinking is asked for: not at all, by `reasoning_effort`, or by OpenRouter's `reasoning` object."""

_EFFORTS: Final[tuple[Effort, ...]] = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
_USUAL_EFFORTS: Final[tuple[Effort, ...]] = ("low", "medium", "high")


class Quirks(msgspec.Struct, frozen=True):
    """One flavour's ways.

    Attributes:
        auth: header that carries the credential; `authorization` means `Bearer` before it.
        path: behind the base URL; `{model}` and `{version}` are filled in.
        max_tokens_field: what the limit of output tokens is called.
        stream_usage: whether `stream_options.include_usage` is understood.
        developer: whether the role `developer` is known; else those messages are sent as `system`.
        seed_field: what the seed is called; empty where there is none.
        reasoning: how thinking is asked for.
        efforts: the efforts that are understood, from the least on; others become the nearest.
        reasoning_field: what earlier thinking is called in messages; empty where it is not sent back.
        formats: forms of an answer that can be asked for, beside plain text.
        strict_tools: whether `strict` is understood in a tool.
        parallel_tool_calls: whether that field is understood.
        string_content: whether a system's, assistant's or tool's content must be one string.
        top_k: whether `top_k` is understood.
        cache_marks: whether `cache_control` is understood in parts of messages.
        own_models: whether the models are OpenAI's, some of which refuse sampling parameters.
        refused: other top-level fields that are answered with an error.
    """

    auth: str = "authorization"
    path: str = "/chat/completions"
    max_tokens_field: str = "max_completion_tokens"
    stream_usage: bool = True
    developer: bool = True
    seed_field: str = "seed"
    reasoning: ReasoningStyle = "effort"
    efforts: tuple[Effort, ...] = _EFFORTS
    reasoning_field: str = ""
    formats: tuple[str, ...] = ("json_object", "json_schema")
    strict_tools: bool = True
    parallel_tool_calls: bool = True
    string_content: bool = False
    top_k: bool = False
    cache_marks: bool = False
    own_models: bool = False
    refused: tuple[str, ...] = ()

    def path_for(self, model: str) -> str:
        """The path of a model's chat completions."""
        return self.path.replace("{model}", quote(model, safe=""))


_OLD: Final = Quirks(max_tokens_field="max_tokens", developer=False)
"""What most compatible servers have in common: the API as it was before `developer` and `max_completion_tokens`."""

OPENAI: Final = Quirks(own_models=True)
ANTHROPIC: Final = Quirks(auth="x-api-key", path="/v1/messages")
GEMINI: Final = Quirks(auth="x-goog-api-key")
FLAVOURS: Final[dict[str, Quirks]] = {
    "openai": OPENAI,
    "azure": msgspec.structs.replace(OPENAI, auth="api-key"),
    "vllm": msgspec.structs.replace(_OLD, efforts=_USUAL_EFFORTS, reasoning_field="reasoning_content", top_k=True),
    "sglang": msgspec.structs.replace(_OLD, efforts=_USUAL_EFFORTS, reasoning_field="reasoning_content", top_k=True),
    "ollama": msgspec.structs.replace(_OLD, efforts=("none", "low", "medium", "high"), parallel_tool_calls=False),
    "llamacpp": msgspec.structs.replace(
        _OLD, efforts=_USUAL_EFFORTS, reasoning_field="reasoning_content", top_k=True, strict_tools=False
    ),
    "lmstudio": msgspec.structs.replace(
        _OLD, reasoning="", formats=("json_schema",), top_k=True, parallel_tool_calls=False
    ),
    "mistral": msgspec.structs.replace(
        _OLD,
        seed_field="random_seed",
        stream_usage=False,  # it always reports, and knows no stream_options
        reasoning="",
        string_content=True,
        refused=(
            "logit_bias",
            "logprobs",
            "metadata",
            "service_tier",
            "store",
            "stream_options",
            "top_logprobs",
            "user",
            "verbosity",
        ),
    ),
    "groq": msgspec.structs.replace(
        _OLD,
        max_tokens_field="max_completion_tokens",
        reasoning="",
        refused=("logit_bias", "logprobs", "top_logprobs"),
    ),
    "deepseek": msgspec.structs.replace(
        _OLD,
        reasoning="",
        reasoning_field="reasoning_content",
        formats=("json_object",),
        strict_tools=False,
        parallel_tool_calls=False,
        string_content=True,
        seed_field="",
    ),
    "openrouter": msgspec.structs.replace(
        _OLD, reasoning="object", reasoning_field="reasoning", top_k=True, cache_marks=True
    ),
    "together": msgspec.structs.replace(_OLD, efforts=_USUAL_EFFORTS, top_k=True, parallel_tool_calls=False),
    "fireworks": msgspec.structs.replace(_OLD, efforts=_USUAL_EFFORTS, reasoning_field="reasoning_content", top_k=True),
    "xai": msgspec.structs.replace(_OLD, reasoning="", refused=("logit_bias",)),
    "cerebras": msgspec.structs.replace(
        _OLD,
        max_tokens_field="max_completion_tokens",
        reasoning="",
        string_content=True,
        refused=("frequency_penalty", "logit_bias", "presence_penalty"),
    ),
    "cohere": msgspec.structs.replace(
        _OLD,
        efforts=("none", "high"),
        parallel_tool_calls=False,
        refused=("logit_bias", "metadata", "n", "service_tier", "store", "user"),
    ),
    "nvidia": msgspec.structs.replace(_OLD, reasoning="", parallel_tool_calls=False),
    "perplexity": msgspec.structs.replace(
        _OLD,
        efforts=_USUAL_EFFORTS,
        formats=("json_schema",),
        strict_tools=False,
        parallel_tool_calls=False,
        top_k=True,
    ),
    "gemini": msgspec.structs.replace(
        _OLD,
        efforts=("none", "minimal", "low", "medium", "high"),
        strict_tools=False,
        parallel_tool_calls=False,
        seed_field="",
        refused=("frequency_penalty", "logit_bias", "metadata", "presence_penalty", "service_tier", "store", "user"),
    ),
}
"""By the provider's flavour; no flavour is OpenAI itself."""

ENGINE: Final = "engine"
"""Flavour of the engines that Detent starts, which nobody else can give: chat completions and nothing beside."""
_ENGINE: Final = msgspec.structs.replace(OPENAI, own_models=False)


def quirks_of(flavour: str, *, dialect: str = "openai", api_version: str = "") -> Quirks:
    """A provider's ways; a flavour that the table lacks counts as the maker's own.

    Azure with an API version has a path for each deployment, without one the newer `/openai/v1` whose base URL the
    provider carries.
    """
    if dialect == "anthropic":
        return ANTHROPIC
    if dialect == "gemini":
        return GEMINI
    found = _ENGINE if flavour == ENGINE else FLAVOURS.get(flavour, OPENAI)
    if flavour == "azure" and api_version:
        path = "/openai/deployments/{model}/chat/completions?api-version=" + quote(api_version, safe="")
        return msgspec.structs.replace(found, path=path)
    return found


_FIELDS: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_MESSAGES: Final = msgspec.json.Decoder(list[dict[str, msgspec.Raw]])
_ENCODER: Final = msgspec.json.Encoder()
_DEVELOPER: Final = b'"developer"'
_SYSTEM: Final = msgspec.Raw(b'"system"')


def fitted(raw: bytes, quirks: Quirks) -> bytes:
    """A client's body as a flavour takes it: fields renamed or left out, values untouched.

    The very same bytes where there is nothing to change, which a look for the fields' names tells at once.
    """
    words = _words(quirks)
    if not any(word in raw for word in words):
        return raw
    fields = _FIELDS.decode(raw)
    found = fitted_fields(fields, quirks)
    return raw if found is fields else _ENCODER.encode(found)


def fitted_fields(fields: dict[str, msgspec.Raw], quirks: Quirks) -> dict[str, msgspec.Raw]:
    """The same for a body that was taken apart already; the very same dict where there is nothing to change."""
    found: dict[str, msgspec.Raw] = {}
    changed = False
    refused = _refused(quirks)
    for name, value in fields.items():
        if name in refused:
            changed = True
        elif name == "max_completion_tokens" and quirks.max_tokens_field == "max_tokens":
            found["max_tokens"] = value
            changed = True
        elif name == "max_tokens" and "max_completion_tokens" in fields and quirks.max_tokens_field == "max_tokens":
            changed = True
        elif name == "seed" and quirks.seed_field != "seed":
            changed = True
            if quirks.seed_field:
                found[quirks.seed_field] = value
        elif name == "messages" and not quirks.developer and _DEVELOPER in bytes(value):
            messages = _MESSAGES.decode(value)
            for message in messages:
                if "role" in message and bytes(message["role"]) == _DEVELOPER:
                    message["role"] = _SYSTEM
            found[name] = msgspec.Raw(_ENCODER.encode(messages))
            changed = True
        else:
            found[name] = value
    return found if changed else fields


def _refused(quirks: Quirks) -> tuple[str, ...]:
    more = ("stream_options",) * (not quirks.stream_usage)
    return (*quirks.refused, *more, *(("parallel_tool_calls",) * (not quirks.parallel_tool_calls)))


def _words(quirks: Quirks) -> tuple[bytes, ...]:
    """What a body must hold, as JSON strings, for anything to be changed in it."""
    words = list(_refused(quirks))
    if quirks.max_tokens_field == "max_tokens":
        words.append("max_completion_tokens")
    if quirks.seed_field != "seed":
        words.append("seed")
    if not quirks.developer:
        words.append("developer")
    return tuple(f'"{word}"'.encode() for word in words)


def nearest(effort: Effort, among: tuple[Effort, ...]) -> Effort:
    """The effort that comes closest; the lesser of two that are as near."""
    if effort in among or not among:
        return effort
    at = _EFFORTS.index(effort)
    return min(among, key=lambda known: (abs(_EFFORTS.index(known) - at), _EFFORTS.index(known)))


def budget_of(effort: Effort) -> int:
    """Tokens of thinking that an effort stands for, where a dialect counts them."""
    return {"none": 0, "minimal": 1024, "low": 2048, "medium": 8192, "high": 16384}.get(effort, 32768)


def effort_of(budget: int) -> Effort:
    """The effort that a budget of thinking tokens stands for."""
    for effort in _EFFORTS[:5]:
        if budget <= budget_of(effort):
            return effort
    return "xhigh"
