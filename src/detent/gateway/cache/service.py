"""Look, keep, clear."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import msgspec

from detent.gateway.cache.embedding import Embed, HashedNgrams
from detent.gateway.cache.index import Index
from detent.gateway.cache.keys import key_of, read_request
from detent.gateway.cache.likeness import guard_of, split, told_apart
from detent.gateway.cache.model import NOTHING, Answer, Entry, Hit, Likeness, Looked, Question, Wish
from detent.gateway.cache.store import MAX_BYTES, MAX_MEMORY, Background, Store, _at_once
from detent.gateway.model import CachePolicy
from detent.kernel.clock import SECOND


class AnswerCache:
    """The cache of a worker.

    Args:
        folder: shared by all workers of the host.
        max_bytes: of all files together; `max_memory` of this worker's part in memory.
        embed: for routes whose policy is `semantic`.
        background: runs file writes elsewhere, one after the other, such as `ThreadPoolExecutor(1).submit`.
    """

    def __init__(
        self,
        folder: Path,
        *,
        max_bytes: int = MAX_BYTES,
        max_memory: int = MAX_MEMORY,
        embed: Embed | None = None,
        background: Background = _at_once,
    ) -> None:
        self._store = Store(folder, max_bytes=max_bytes, max_memory=max_memory, background=background)
        self._embed: Embed = embed or HashedNgrams()
        self._index = Index(self._store, self._embed)

    def look(self, question: Question, policy: CachePolicy, wish: Wish, now: int) -> Looked:
        """Whether the request was answered before, within the policy's age and the client's wish.

        A route without a policy, a client that wants neither, and a request that cannot be cached give nothing to keep.
        """
        if policy.mode == "off" or not (wish.read or wish.write):
            return NOTHING
        request = read_request(question)
        if request is None:
            return NOTHING
        body, variant = request
        key = key_of(question, body, variant)
        if key is None:
            return NOTHING
        ttl = policy.ttl_seconds * SECOND
        semantic = policy.mode == "semantic" and wish.semantic
        project = question.project
        if wish.read:
            entry = self._fresh(project, key, ttl, wish, now)
            if entry is not None:
                return Looked(hit=Hit("exact", entry.answer, entry.stored), project=project, used=True)
        likeness = self._likeness(question, body, variant, policy.threshold) if semantic else None
        if likeness is not None and wish.read:
            for similarity, other in self._index.nearest(project, likeness, policy.threshold, now):
                entry = self._fresh(project, other, ttl, wish, now)
                if entry is not None:
                    hit = Hit("semantic", entry.answer, entry.stored, similarity)
                    return Looked(hit=hit, project=project, used=True)
        if not wish.write:
            return Looked(used=True)
        return Looked(key=key, project=project, ttl=ttl, likeness=likeness, used=True)

    def keep(self, looked: Looked, answer: Answer | None, now: int) -> bool:
        """Keep the answer to what was looked for; False when it must not be kept, or is too large."""
        if answer is None or not looked.key:
            return False
        expires = now + looked.ttl
        if not self._store.put(looked.project, Entry(looked.key, now, expires, answer)):
            return False
        if looked.likeness is not None:
            self._index.add(looked.project, looked.key, looked.likeness, expires, now)
        return True

    def clear(self, project: str) -> None:
        """Remove everything that is kept for a project, for all workers of the host."""
        self._store.clear(project)

    def sweep(self, now: int) -> int:
        """Remove what is expired, and what is too much; the bytes that are left. Reads the whole folder's listing."""
        return self._store.sweep(now)

    # Inside

    def _fresh(self, project: str, key: bytes, ttl: int, wish: Wish, now: int) -> Entry | None:
        """The entry unless it is older than the policy, which may have changed since, or the client allows."""
        entry = self._store.get(project, key, now)
        if entry is None:
            return None
        age = now - entry.stored
        return entry if age < ttl and not (wish.max_age and age > wish.max_age) else None

    def _likeness(self, question: Question, body: dict[str, Any], variant: bytes, threshold: float) -> Likeness | None:
        words = split(body)
        if words is None or not told_apart(words.text, threshold, self._embed.resolution):
            return None
        context = key_of(msgspec.structs.replace(question, body=b""), words.context, variant)
        vector = self._embed(words.text)
        if context is None or len(vector) != self._embed.dims or not any(vector):
            return None
        return Likeness(context, guard_of(words.text), struct.pack(f"<{self._embed.dims}e", *vector))
