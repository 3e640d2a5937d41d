"""What a failed attempt says about the deployment: its class of failure, or nothing at all."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

import msgspec

from detent.gateway.errors import (
    AddressRefused,
    BadAnswer,
    CredentialRefused,
    CredentialUnusable,
    TotalTimedOut,
    UpstreamBusy,
    UpstreamRejected,
)
from detent.gateway.model import Failure
from detent.kernel.errors import DetentError, TimedOut, UpstreamFailed

COUNTED: Final[frozenset[Failure]] = frozenset({"rate_limited", "unavailable", "timeout", "bad_answer"})
"""Failures that count against a deployment. The others are properties of the one request."""

_LOOKED_AT: Final = 16 * 1024
_MESSAGE: Final = 2000

# Codes, types and statuses that name the class outright; compared in lower case.
_CODES: Final[dict[str, Failure]] = {
    "context_length_exceeded": "context_length",  # OpenAI, Azure, Groq, Mistral
    "context_window_exceeded": "context_length",
    "exceed_context_size_error": "context_length",  # llama.cpp
    "request_too_large": "context_length",  # Anthropic, with 413
    "content_filter": "content_filter",  # Azure
    "content_policy_violation": "content_filter",  # OpenAI
    "responsibleaipolicyviolation": "content_filter",  # Azure, in `innererror`
    "moderation_blocked": "content_filter",  # OpenAI images
    "data_inspection_failed": "content_filter",  # Alibaba
    "prohibited_content": "content_filter",  # Gemini
    "model_not_found": "unavailable",  # OpenAI, Groq
    "deploymentnotfound": "unavailable",  # Azure
    "api_key_invalid": "unavailable",  # Gemini, with 400
    "insufficient_quota": "unavailable",  # OpenAI: the account is out of money
    "billing_hard_limit_reached": "unavailable",
    "billing_not_active": "unavailable",
    "billing_error": "unavailable",  # Anthropic
    "modelerrorexception": "unavailable",  # Bedrock, with 424
    "modelnotreadyexception": "unavailable",
    "resourcenotfoundexception": "unavailable",
    "servicequotaexceededexception": "rate_limited",  # Bedrock, with 400
    "throttlingexception": "rate_limited",
    "resource_exhausted": "rate_limited",  # Gemini
}

_STATUSES: Final[dict[int, Failure]] = {402: "unavailable", 413: "context_length", 424: "unavailable"}

# Who says it that way is named at the end of the line. No pattern can backtrack far: every gap is bounded.
_CONTEXT: Final = re.compile(
    r"maximum context length"  # OpenAI, vLLM, OpenRouter, DeepSeek
    r"|exceeds? (?:the |this )?(?:model'?s? )?(?:available |maximum )?context (?:window|size|length|limit)"  # llama.cpp
    r"|context (?:window|length) (?:is )?exceed(?:ed|s)"  # Ollama, MiniMax
    r"|maximum context limit"
    r"|(?:greater|longer) than the (?:model'?s )?context length"  # LM Studio, SGLang
    r"|(?:prompt|input) (?:is )?too long"  # Anthropic; Bedrock
    r"|input token count.{0,60}exceeds the maximum"  # Gemini
    r"|exceeds the maximum number of (?:input )?tokens"  # Gemini
    r"|maximum prompt length is \d"  # xAI
    r"|maximum (?:model|input) length"  # vLLM; Cohere
    r"|is too long and exceeds"  # vLLM
    r"|reduce the length of the (?:messages|prompt|input)"  # Groq
    r"|too large for model with \d+ maximum"  # Mistral
    r"|input tokens exceed the configured limit"  # OpenAI
    r"|tokens in request more than max tokens"  # Zhipu
    r"|`inputs` tokens \+ `max_new_tokens` must"  # TGI
    r"|total number of tokens.{0,60}exceeds",  # Cohere
)
_FILTERED: Final = re.compile(
    r"content (?:management|filtering|moderation|safety) policy"  # Azure; Anthropic
    r"|content[ _]policy"  # OpenAI
    r"|content filter"
    r"|(?:prompt|request|input|message).{0,40}(?:was|been|is) (?:flagged|blocked|rejected)"
    r".{0,60}(?:polic|safety|moderation)"  # OpenAI
    r"|requires moderation"  # OpenRouter
    r"|limited access to this content for safety"  # OpenAI
    r"|violat\w{2,5} (?:our |the |openai's )?(?:usage|safety|use|acceptable use) polic"
    r"|blocked (?:by|due to) (?:our |the )?(?:safety|moderation|guardrail)",  # Gemini, Bedrock
)
_GONE: Final = re.compile(
    r"api key (?:not valid|expired)"  # Gemini answers 400
    r"|credit balance is too low"  # Anthropic answers 400
    r"|insufficient (?:balance|credits)"  # DeepSeek, OpenRouter
    r"|model identifier is invalid|on-demand throughput isn"  # Bedrock
    r"|user location is not supported"  # Gemini
    r"|the model [^\n]{1,200} (?:does not exist|was not found|is not found)"  # OpenAI, vLLM
    r"|model [^\n]{1,200} not found",  # Ollama
)
_NO_MODEL: Final = re.compile(r"\bmodels?\b")


def classify(error: DetentError) -> Failure | None:
    """The class of failure that an attempt ended with.

    None means that it says nothing about the deployment and that no fallback answers it: the client's own mistake, or
    a limit of ours.
    """
    if isinstance(error, UpstreamRejected):
        return rejected_class(error.answered, error.said)
    if isinstance(error, UpstreamBusy):
        return "rate_limited"
    if isinstance(error, BadAnswer):
        return "bad_answer"
    if isinstance(error, UpstreamFailed):
        return "unavailable"
    if isinstance(error, TimedOut):
        return "timeout"
    return None


def retriable(error: DetentError) -> bool:
    """Whether the same deployment may do better at the next try: not without a credential or after the whole time."""
    if isinstance(error, CredentialRefused | CredentialUnusable | AddressRefused | TotalTimedOut | UpstreamRejected):
        return False
    return classify(error) is not None


def rejected_class(status: int, body: bytes) -> Failure | None:
    """What a provider means by a status of 4xx, from its codes and, failing these, from its words.

    Reads the errors of OpenAI, Azure, Anthropic, Gemini, Bedrock, Mistral, Groq, vLLM, SGLang, TGI, llama.cpp and
    Ollama. Providers report as the client's mistake what is none: an account without money, a model that is not
    there. None is the client's own mistake.
    """
    codes, message = _read(body)
    for code in codes:
        found = _CODES.get(code)
        if found is not None:
            return found
    if "string_above_max_length" not in codes:  # a parameter's limit, not the model's
        if _FILTERED.search(message):
            return "content_filter"
        if _CONTEXT.search(message):
            return "context_length"
        if _GONE.search(message):
            return "unavailable"
        if status == 404 and _NO_MODEL.search(message):
            return "unavailable"
    return _STATUSES.get(status)


def _read(body: bytes) -> tuple[list[str], str]:
    """Codes and message of an error body of whatever shape, in lower case."""
    try:
        found: object = msgspec.json.decode(body) if len(body) <= _LOOKED_AT else None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        found = None
    codes: list[str] = []
    messages: list[str] = []
    for error in _errors(found):
        codes += [value.lower()[:100] for name in _CODE_FIELDS if isinstance(value := error.get(name), str)]
        messages += [value for name in _MESSAGE_FIELDS if isinstance(value := error.get(name), str)]
    message = " ".join(messages) if messages else body[:_MESSAGE].decode(errors="replace")
    return codes, message[:_MESSAGE].lower()


_CODE_FIELDS: Final = ("code", "type", "status", "reason", "__type", "error_type")
_MESSAGE_FIELDS: Final = ("message", "Message", "detail", "error")


def _errors(found: object) -> Iterator[dict[object, object]]:
    """The objects of an error body that may hold codes and messages, the innermost last."""
    if isinstance(found, list):  # Gemini's OpenAI-compatible door answers a list of one
        found = found[0] if found else None
    if not isinstance(found, dict):
        return
    yield found
    error = found.get("error")
    if not isinstance(error, dict):
        return
    yield error
    inner = error.get("innererror")
    if isinstance(inner, dict):
        yield inner
    details = error.get("details")
    if isinstance(details, list):
        yield from (detail for detail in details[:10] if isinstance(detail, dict))
