"""From a conversation to an answer: prompt, token by token, text, and why it ended.

`Tiny` is the whole model in one process, for whoever wants no server: `Tiny.load().answer([("user", "Hello")])`.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from detent.kernel.errors import InvalidInput
from detent.serving.engines.tiny.chat import render
from detent.serving.engines.tiny.runtime import BLOCK, DATA, Adapter, Cache, Llama
from detent.serving.engines.tiny.tokenizer import END, Tokenizer
from detent.serving.engines.tiny.weights import Array

Finish = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is chosen and when to stop; temperature 0 takes the likeliest.

    Attributes:
        seed: the same seed gives the same answer; None draws one.
        penalties: taken from the logit of a token already said: once per time said (frequency), once (presence).
        bias: added to the logits of token ids.
        stop: texts that end the answer and are not part of it.
        max_tokens: None for as many as the context has room for.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    bias: Mapping[int, float] = field(default_factory=dict)
    stop: tuple[str, ...] = ()
    max_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Token:
    """One token said: its id, the log-probability it had before any sampling, and those of the likeliest ones."""

    id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Piece:
    """What one step brought: text that is now certain (perhaps none), and the token (none for a part of the prompt)."""

    text: str = ""
    token: Token | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """A finished answer."""

    text: str
    finish: Finish
    prompt_tokens: int
    completion_tokens: int


class Generation:
    """One answer in the making. Iterating does the work, a few milliseconds at a time at most."""

    def __init__(
        self,
        model: Tiny,
        prompt: list[int],
        sampling: Sampling,
        adapter: Adapter | None,
        *,
        logprobs: int | None = None,
    ) -> None:
        """`logprobs`: how many alternatives to tell with each token; None to compute none."""
        room = model.llama.shape.context - len(prompt)
        if room < 1:
            raise InvalidInput(
                f"The conversation has {len(prompt)} tokens; this model reads at most {model.llama.shape.context - 1}.",
                hint="Send a shorter message.",
                field="messages",
            )
        self.prompt_tokens = len(prompt)
        self.completion_tokens = 0
        self.finish: Finish = "length"
        self._limit = min(room, sampling.max_tokens or room)
        self._model, self._prompt, self._sampling, self._adapter = model, prompt, sampling, adapter
        self._logprobs = logprobs
        self._text = _Text(sampling.stop)

    def __iter__(self) -> Iterator[Piece]:
        llama, adapter, end = self._model.llama, self._adapter, self._model.tokenizer.special[END]
        cache = Cache(llama.shape, self.prompt_tokens + self._limit)
        for start in range(0, self.prompt_tokens, BLOCK):
            logits = llama.forward(self._prompt[start : start + BLOCK], cache, adapter)
            yield Piece()
        choose = _Chooser(self._sampling, self._model.silent)
        while self.completion_tokens < self._limit:
            chosen = choose(logits)
            if chosen == end:
                self.finish = "stop"
                break
            self.completion_tokens += 1
            token = None if self._logprobs is None else _told(logits, chosen, self._logprobs)
            text, stopped = self._text.add(self._model.tokenizer.bytes[chosen])
            yield Piece(text, token or Token(chosen, 0.0))
            if stopped:
                self.finish = "stop"
                return
            if self.completion_tokens < self._limit:
                logits = llama.forward((chosen,), cache, adapter)
        if rest := self._text.close():
            yield Piece(rest)


class Tiny:
    """A model folder loaded: weights, tokenizer, and adapters by name."""

    def __init__(self, llama: Llama, tokenizer: Tokenizer, adapters: Mapping[str, Adapter] | None = None) -> None:
        self.llama = llama
        self.tokenizer = tokenizer
        self.adapters = dict(adapters or {})
        self.silent = [index for name, index in tokenizer.special.items() if name != END]
        """Tokens that structure a conversation and are never said."""

    @classmethod
    def load(cls, folder: Path = DATA, adapters: Mapping[str, Path] | None = None) -> Tiny:
        """Read a model folder, and adapters' folders by the name they shall have."""
        llama = Llama.load(folder)
        read = {name: Adapter.load(path, llama.shape) for name, path in (adapters or {}).items()}
        return cls(llama, Tokenizer.load(folder / "tokenizer.json"), read)

    def begin(
        self,
        messages: Sequence[tuple[str, str]],
        sampling: Sampling = Sampling(),
        *,
        adapter: str = "",
        logprobs: int | None = None,
    ) -> Generation:
        """An answer to (role, text) messages, made as it is iterated. Raises InvalidInput when they are too long."""
        size = sum(len(text) for _, text in messages)
        if size > self.llama.shape.context * self.tokenizer.longest:
            raise InvalidInput(
                f"The conversation has {size} characters, more than this model reads.",
                hint="Send a shorter message.",
                field="messages",
            )
        prompt = render(self.tokenizer, messages)
        return Generation(self, prompt, sampling, self.adapters[adapter] if adapter else None, logprobs=logprobs)

    def answer(
        self, messages: Sequence[tuple[str, str]], sampling: Sampling = Sampling(), *, adapter: str = ""
    ) -> Answer:
        """The whole answer at once."""
        made = self.begin(messages, sampling, adapter=adapter)
        text = "".join(piece.text for piece in made)
        return Answer(text, made.finish, made.prompt_tokens, made.completion_tokens)


class _Chooser:
    """Picks the next token."""

    def __init__(self, sampling: Sampling, silent: list[int]) -> None:
        self._sampling = sampling
        self._silent = silent
        self._said: dict[int, int] = {}
        self._chance = np.random.default_rng(sampling.seed)
        self._plain = not (sampling.frequency_penalty or sampling.presence_penalty or sampling.bias)

    def __call__(self, logits: Array) -> int:
        how = self._sampling
        logits = logits.copy()
        logits[self._silent] = -np.inf
        if not self._plain:
            for index, amount in how.bias.items():
                logits[index] += amount
            for index, times in self._said.items():
                logits[index] -= how.frequency_penalty * times + how.presence_penalty
        chosen = int(logits.argmax()) if how.temperature == 0 else self._draw(logits / how.temperature)
        self._said[chosen] = self._said.get(chosen, 0) + 1
        return chosen

    def _draw(self, logits: Array) -> int:
        order = np.argsort(-logits, kind="stable")
        shares = np.exp((logits[order] - logits[order[0]]).astype(np.float64))
        sums = np.cumsum(shares)
        if self._sampling.top_p < 1:
            kept = int(np.searchsorted(sums, self._sampling.top_p * sums[-1])) + 1
            sums = sums[:kept]
        return int(order[min(np.searchsorted(sums, self._chance.random() * sums[-1], side="right"), len(sums) - 1)])


class _Text:
    """Bytes of tokens to text that is certain: whole characters only, nothing that may yet turn out a stop text."""

    def __init__(self, stop: tuple[str, ...]) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._stop = stop
        self._held = ""

    def add(self, data: bytes) -> tuple[str, bool]:
        """What may be shown now, and whether a stop text was reached."""
        text = self._decoder.decode(data)
        if not self._stop:
            return text, False
        text = self._held + text
        found = min((at for stop in self._stop if (at := text.find(stop)) >= 0), default=-1)
        if found >= 0:
            self._held = ""
            return text[:found], True
        held = max((_overlap(text, stop) for stop in self._stop), default=0)
        self._held = text[len(text) - held :]
        return text[: len(text) - held], False

    def close(self) -> str:
        """What was held back when the answer ended."""
        return self._held + self._decoder.decode(b"", True)


def _overlap(text: str, stop: str) -> int:
    """The longest end of the text that begins `stop`."""
    return next((size for size in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:size])), 0)


def _told(logits: Array, chosen: int, count: int) -> Token:
    shifted = logits.astype(np.float64) - logits.max()
    logs = shifted - np.log(np.exp(shifted).sum())
    order = np.argsort(-logs, kind="stable")[:count]
    return Token(chosen, float(logs[chosen]), tuple((int(index), float(logs[index])) for index in order))
