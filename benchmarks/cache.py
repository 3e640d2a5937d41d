"""The answer cache: µs per look-up, and how often the semantic mode finds a paraphrase or is fooled.

Usage: `python benchmarks/cache.py`. Prints two tables. The phrases are generated from templates: what is found in
them says what the default embedding can do, not what a given application's users write.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import orjson

from detent.gateway.cache import Answer, AnswerCache, HashedNgrams, Question, Wish, wish_of
from detent.gateway.cache.keys import key_of, read_request
from detent.gateway.cache.likeness import guard_of, told_apart
from detent.gateway.model import CachePolicy

NOW = 1_800_000_000_000_000_000

INTENTS = (
    ("reset", "the password", "of my account"),
    ("cancel", "the order", "number 4711"),
    ("change", "the delivery address", "of my parcel"),
    ("return", "a damaged lamp", "after two weeks"),
    ("export", "all invoices", "from 2025"),
    ("connect", "the printer", "to my laptop"),
    ("update", "the firmware", "of the router"),
    ("book", "a table", "for six people"),
    ("translate", "this contract", "into Spanish"),
    ("install", "the plugin", "on Windows"),
    ("track", "my shipment", "to Berlin"),
    ("renew", "the subscription", "without paying twice"),
)
REWORDED = (
    "How do I {0} {1} {2}?",
    "How can I {0} {1} {2}?",
    "how to {0} {1} {2}",
    "Please tell me how to {0} {1} {2}.",
    "Hi, I want to {0} {1} {2}, how do I do that?",
    "could you explain how I can {0} {1} {2}, please",
    "I need to {0} {1} {2}. How?",
)
OTHER_WORDS = {
    "reset": "recover",
    "cancel": "call off",
    "change": "modify",
    "return": "send back",
    "export": "download",
    "connect": "hook up",
    "update": "upgrade",
    "book": "reserve",
    "translate": "render",
    "install": "set up",
    "track": "follow",
    "renew": "extend",
}
TRAPS: tuple[Callable[[str], str], ...] = (
    lambda text: text.replace("4711", "4712").replace("two", "three").replace("2025", "2024").replace("six", "seven"),
    lambda text: text.replace("Berlin", "Bern").replace("Spanish", "Swedish").replace("Windows", "Linux"),
    lambda text: text.replace("I ", "I not ", 1).replace("to ", "not to ", 1),
    lambda text: text.replace("my ", "her ").replace("the ", "every "),
    lambda text: text.replace("account", "router").replace("parcel", "invoice").replace("laptop", "phone"),
    lambda text: text.replace("password", "e-mail").replace("order", "contract").replace("lamp", "chair"),
)


LONG = (
    "I ordered a green lamp with a brass foot in your shop and paid by card, and it came in a torn box.",
    "My colleague moved to another team and her laptop with all project files stayed in our office.",
    "We run a small bakery and take orders by phone and by mail, mostly for birthday cakes.",
)
LONGER = (*LONG, *(f"{one} {other}" for one, other in combinations(LONG, 2)))
ASKED = ("return it", "exchange it", "insure it", "repair it", "sell it", "photograph it", "report it", "keep it")


class Quality(NamedTuple):
    """Shares, each of 1."""

    precision: float
    reworded: float
    other_words: float
    trapped: float
    long_trapped: float
    long_reworded: float


def matcher(threshold: float) -> Callable[[str, str], bool]:
    """Whether the default embedding and the guard take two messages for the same question."""
    embed = HashedNgrams()
    kept: dict[str, tuple[bytes, Sequence[float]]] = {}

    def known(text: str) -> tuple[bytes, Sequence[float]]:
        if text not in kept:
            kept[text] = (guard_of(text), embed(text))
        return kept[text]

    def hits(one: str, other: str) -> bool:
        if not (told_apart(one, threshold, embed.resolution) and told_apart(other, threshold, embed.resolution)):
            return False
        (guard, mine), (its_guard, its) = known(one), known(other)
        return guard == its_guard and sum(a * b for a, b in zip(mine, its, strict=True)) >= threshold

    return hits


def quality(threshold: float) -> Quality:
    """Precision over all pairs that hit; recall of rewordings and of other words; share of traps it falls into."""
    hits = matcher(threshold)

    def share(pairs: Iterable[tuple[str, str]]) -> tuple[int, int]:
        found = [hits(one, other) for one, other in pairs]
        return sum(found), len(found)

    phrases = [(intent, form.format(*intent)) for intent in INTENTS for form in REWORDED]
    same = share((a, b) for (mine, a), (its, b) in combinations(phrases, 2) if mine == its)
    different = share((a, b) for (mine, a), (its, b) in combinations(phrases, 2) if mine != its)
    others = share(
        (form.format(*intent), form.format(OTHER_WORDS[intent[0]], *intent[1:]))
        for intent in INTENTS
        for form in REWORDED
    )
    traps = share((text, trap(text)) for _, text in phrases for trap in TRAPS if trap(text) != text)
    long_traps = share(
        (f"{story} Can I {one}?", f"{story} Can I {other}?")
        for story in LONGER
        for one, other in combinations(ASKED, 2)
    )
    long_same = share((f"{story} Can I {one}?", f"{story} Could I please {one}?") for story in LONGER for one in ASKED)
    right, wrong = same[0] + long_same[0], different[0] + traps[0] + long_traps[0]
    return Quality(
        right / max(right + wrong, 1),
        *(found / tried for found, tried in (same, others, traps, long_traps, long_same)),
    )


class Entry(NamedTuple):
    """A question of phrases.txt.

    Attributes:
        reworded: the same, in much the same words.
        others: the same, in other words.
        traps: alike, and something else.
    """

    question: str
    reworded: list[str]
    others: list[str]
    traps: list[str]


def held_out(name: str) -> list[Entry]:
    """Phrases that were written before any was tried: `phrases`, or `phrases_later`."""
    found: list[Entry] = []
    for line in (Path(__file__).parent / f"{name}.txt").read_text().splitlines():
        kind, _, text = line.partition(" ")
        if kind == "=":
            found.append(Entry(text, [], [], []))
        elif kind in ("+", "~", "-"):
            found[-1][("+", "~", "-").index(kind) + 1].append(text)
    return found


class HeldOut(NamedTuple):
    """What came of the held-out phrases, as counts: hits and tries.

    Attributes:
        wrong: pairs that ask different things and were a hit.
        reworded: against the question, and among each other.
        traps: against the question and its rewordings.
        apart: of different questions.
    """

    reworded: tuple[int, int]
    others: tuple[int, int]
    traps: tuple[int, int]
    apart: tuple[int, int]
    wrong: list[tuple[str, str]]

    @property
    def precision(self) -> float:
        """Of all hits, the share that was right; as many near misses are tried as rewordings, which is harsh."""
        right = self.reworded[0] + self.others[0]
        return right / max(right + len(self.wrong), 1)


def measure_held_out(threshold: float, name: str = "phrases_later") -> HeldOut:
    """Try each pair of phrases."""
    hits = matcher(threshold)
    entries = held_out(name)
    wrong: list[tuple[str, str]] = []

    def count(pairs: Iterable[tuple[str, str]], *, same: bool) -> tuple[int, int]:
        tried = found = 0
        for pair in pairs:
            tried += 1
            if hits(*pair):
                found += 1
                if not same:
                    wrong.append(pair)
        return found, tried

    return HeldOut(
        count((pair for e in entries for pair in combinations((e.question, *e.reworded), 2)), same=True),
        count(((other, one) for e in entries for other in e.others for one in (e.question, *e.reworded)), same=True),
        count(((one, trap) for e in entries for trap in e.traps for one in (e.question, *e.reworded)), same=False),
        count(
            (
                (one, other)
                for a, b in combinations(entries, 2)
                for one in (a.question, *a.reworded, *a.others)
                for other in (b.question, *b.reworded, *b.others)
            ),
            same=False,
        ),
        wrong,
    )


def micro(work: Callable[[], object], turns: int = 3000) -> float:
    """µs of one turn, the best of five."""
    best = float("inf")
    for _ in range(5):
        begun = time.perf_counter_ns()
        for _ in range(turns):
            work()
        best = min(best, (time.perf_counter_ns() - begun) / turns / 1000)
    return best


def request(text: str, size: int = 2048) -> bytes:
    """A chat of about so many bytes that ends with a text."""
    rest = random.Random(7)
    words = " ".join(rest.choice(("order", "refund", "parcel", "account", "invoice")) for _ in range(size // 8))
    body = {
        "model": "support",
        "temperature": 0.2,
        "messages": [{"role": "system", "content": words[: size - 300]}, {"role": "user", "content": text}],
    }
    return orjson.dumps(body)


def main() -> None:
    """Measure and print."""
    text = "How do I reset the password of my account?"
    question = Question("default", "support", 1, "openai", request(text))
    answer = Answer("application/json", (b"x" * 1500,), finish_reason="stop")
    exact, semantic, wish = CachePolicy("exact"), CachePolicy("semantic"), Wish()
    with tempfile.TemporaryDirectory() as folder:
        cache = AnswerCache(Path(folder))

        def key() -> object:
            read = read_request(question)
            assert read is not None
            return key_of(question, *read)

        print(f"request of {len(question.body)} bytes")
        print(f"key                        {micro(key):8.1f} µs")
        print(f"wish of no headers         {micro(lambda: wish_of({})):8.1f} µs")
        print(f"miss                       {micro(lambda: cache.look(question, exact, wish, NOW)):8.1f} µs")
        cache.keep(cache.look(question, semantic, wish, NOW), answer, NOW)
        print(f"hit in memory              {micro(lambda: cache.look(question, exact, wish, NOW)):8.1f} µs")

        def cold() -> object:
            cache._store._memory.clear()
            return cache.look(question, exact, wish, NOW)

        print(f"hit on disk                {micro(cold):8.1f} µs")
        for number in range(999):
            other = Question("default", "support", 1, "openai", request(f"{text} {number}"))
            cache.keep(cache.look(other, semantic, wish, NOW), answer, NOW)
        alike = Question("default", "support", 1, "openai", request("how to reset the password of my account"))
        looked = cache.look(alike, semantic, wish, NOW)
        assert looked.hit is not None, "a rewording is a hit"
        print(f"semantic hit of 1000       {micro(lambda: cache.look(alike, semantic, wish, NOW), 300):8.1f} µs")
        print(f"embedding                  {micro(lambda: HashedNgrams()(text), 300):8.1f} µs")
        print(
            f"keep                       {micro(lambda: cache.keep(looked, answer, NOW), 300):8.1f} µs (no hit to keep)"
        )
        fresh = cache.look(question, exact, Wish(read=False), NOW)
        print(f"keep, file written         {micro(lambda: cache.keep(fresh, answer, NOW), 300):8.1f} µs")
    print()
    print("threshold  precision  reworded  other words  traps  long traps  long reworded")
    for threshold in (0.80, 0.85, 0.90, 0.93, 0.95, 0.97, 0.99):
        found = quality(threshold)
        print(
            f"{threshold:9.2f}  {found.precision:9.3f}  {found.reworded:8.3f}  {found.other_words:11.3f}  "
            f"{found.trapped:5.3f}  {found.long_trapped:10.3f}  {found.long_reworded:13.3f}"
        )
    for name in ("phrases", "phrases_later"):
        print()
        print(f"{name + '.txt':18}  precision  reworded  other words  near misses  different questions")
        for threshold in (0.90, 0.95, 0.97):
            tried = measure_held_out(threshold, name)
            shares = [found / of for found, of in tried[:4]]
            print(
                f"{threshold:18.2f}  {tried.precision:9.3f}  {shares[0]:8.3f}  {shares[1]:11.3f}  {shares[2]:11.3f}  "
                f"{tried.apart[0]:8d} of {tried.apart[1]}"
            )


if __name__ == "__main__":
    main()
