"""Answers given before, given again: exactly the same request, or by choice one that asks the same in other words.

    cache = AnswerCache(home / "cache")
    looked = cache.look(question, policy, wish_of(headers), now)
    if looked.hit is not None: ...       # give looked.hit.answer.chunks, with hit_headers(looked.hit, now)
    recorder = Recorder()                # else serve the call, and recorder.add() what the client gets
    cache.keep(looked, recorder.answer(...), now)

What is kept lies in files that all workers of a host share and that survive a restart; what was used last also lies in
each worker's memory. Nothing in here waits for a network, and nothing that is found on the disk can make a call fail.
"""

from __future__ import annotations

from detent.gateway.cache.embedding import Embed, HashedNgrams
from detent.gateway.cache.model import Answer, Hit, Looked, Question, Wish
from detent.gateway.cache.recorder import Recorder
from detent.gateway.cache.service import AnswerCache
from detent.gateway.cache.wishes import hit_attributes, hit_headers, wish_of

__all__ = [
    "Answer",
    "AnswerCache",
    "Embed",
    "HashedNgrams",
    "Hit",
    "Looked",
    "Question",
    "Recorder",
    "Wish",
    "hit_attributes",
    "hit_headers",
    "wish_of",
]
