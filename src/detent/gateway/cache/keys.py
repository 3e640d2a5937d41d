"""The digest under which an answer is kept."""

from __future__ import annotations

from hashlib import sha256
from typing import Any, Final

import orjson

from detent.gateway.cache.model import Question

_IRRELEVANT: Final = (
    "model",  # the route's name, which is in the key already
    "user",
    "metadata",
    "stream",
    "stream_options",
    "store",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
)
"""Fields of any dialect that change how an answer is delivered, billed or filed, but not what it says."""

_STATEFUL: Final = ("previous_response_id", "conversation", "background")
"""Fields that make an answer depend on more than the request."""

_SORTED: Final = orjson.OPT_SORT_KEYS


def read_request(question: Question) -> tuple[dict[str, Any], bytes] | None:
    """The request without what does not matter, and how its answer is delivered; None when it cannot be cached."""
    try:
        body = orjson.loads(question.body)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(body, dict):
        return None
    variant = b"w"
    if body.get("stream"):
        options = body.get("stream_options")
        # A stream with the usage event and one without are two streams.
        variant = b"u" if isinstance(options, dict) and options.get("include_usage") else b"s"
    for name in _STATEFUL:
        if body.get(name):
            return None
    for name in _IRRELEVANT:
        body.pop(name, None)
    return body, variant


def key_of(question: Question, body: Any, variant: bytes) -> bytes | None:
    """SHA-256 over project, route, dialect, variant and the body in canonical order; None when that has no form."""
    try:
        canonical = orjson.dumps(body, option=_SORTED)
    except orjson.JSONEncodeError:
        return None
    # Lengths are said, so that no two questions run together into the same bytes.
    scope = f"{len(question.project)}:{question.project}{len(question.route)}:{question.route}"
    scope = f"{scope}{question.version}:{question.dialect}:{len(question.headers)}:"
    digest = sha256(scope.encode(errors="surrogatepass"))
    digest.update(question.headers)
    digest.update(variant)
    digest.update(canonical)
    return digest.digest()
