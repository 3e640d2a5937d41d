"""What is asked of the cache and what it gives. Frozen, no I/O."""

from __future__ import annotations

from typing import Literal

import msgspec

from detent.kernel.chat import Usage

Kind = Literal["exact", "semantic"]


class Question(msgspec.Struct, frozen=True, gc=False):
    """A request as the cache sees it.

    Attributes:
        project: whose it is; nothing is ever given to another.
        route: its name.
        version: of the route (ns of its last change): answers from before a change are not given.
        dialect: of the client (`openai`, `responses`, `anthropic`).
        body: as the client sent it.
        headers: values that change the answer (`anthropic-beta`), joined in any fixed way.
    """

    project: str
    route: str
    version: int
    dialect: str
    body: bytes
    headers: bytes = b""


class Wish(msgspec.Struct, frozen=True):
    """What the client wants of the cache; it never gets more than the route's policy allows.

    Attributes:
        read: an answer from before is welcome.
        write: this answer may be kept.
        semantic: also one to a request that is only alike.
        max_age: ns that such an answer may be old; 0 for any age.
    """

    read: bool = True
    write: bool = True
    semantic: bool = True
    max_age: int = 0


class Answer(msgspec.Struct, frozen=True):
    """A complete, successful answer.

    Attributes:
        content_type: of what the client got.
        chunks: what the client got: an answer in one piece, or a stream's events one by one.
        usage, cost: of the call that it was made by; what a hit saves.
        provider, model, response_model, response_id, finish_reason: for the spans of hits.
        output: the message as JSON, for the same; empty where no content is kept.
    """

    content_type: str
    chunks: tuple[bytes, ...]
    usage: Usage = Usage()
    cost: int | None = None
    provider: str = ""
    model: str = ""
    response_model: str = ""
    response_id: str = ""
    finish_reason: str = ""
    output: str = ""


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """An answer as it is kept.

    Attributes:
        key: what it answers; a file that was moved answers nothing.
        stored, expires: ns since the epoch.
    """

    key: bytes
    stored: int
    expires: int
    answer: Answer


class Hit(msgspec.Struct, frozen=True):
    """An answer from before.

    Attributes:
        kind: of the same request, or of one alike.
        answer: as it was given then.
        stored: when that was, ns since the epoch.
        similarity: cosine of a semantic hit, 1 of an exact one.
    """

    kind: Kind
    answer: Answer
    stored: int
    similarity: float = 1.0

    @property
    def saved_cost(self) -> int | None:
        """Nano-dollars that were not spent; None when the first answer was unpriced."""
        return self.answer.cost

    @property
    def saved_usage(self) -> Usage:
        """Tokens that were not spent."""
        return self.answer.usage


class Looked(msgspec.Struct, frozen=True):
    """What came of looking.

    Attributes:
        hit: an answer from before, if there is one.
        key: under which an answer to this request is kept; empty when it must not be.
        project: whose.
        ttl: ns that it is good.
        likeness: what makes it findable by requests that are alike; None when it is not to be.
        used: whether the cache had any part in this call, so that the client is told of a miss.
    """

    hit: Hit | None = None
    key: bytes = b""
    project: str = ""
    ttl: int = 0
    likeness: Likeness | None = None
    used: bool = False


class Likeness(msgspec.Struct, frozen=True):
    """A request with its last words set apart.

    Attributes:
        context: digest of all but the words: route, earlier turns, system prompt, tools, parameters.
        guard: digest of what must be the very same in the words: numbers, names, quotes, negations.
        vector: the words' embedding, half-precision floats.
    """

    context: bytes
    guard: bytes
    vector: bytes


NOTHING = Looked()
