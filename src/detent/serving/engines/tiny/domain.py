"""The narrow world of detent-tiny: messages to a shop's support, and the answer each should get.

A customer's message becomes five fields: what is wanted (`intent`), the order number, the product, the city, and how
urgent it is. Everything is generated from a seed and the words in `lexicon.json`. What a model is measured with is
disjoint from what it learned from: order numbers, products, cities and names of the split `values` never occur in
`train`; in `phrasings` the sentences are new too. A system prompt steers the answer: which fields, JSON or plain
lines, and, where all fields are wanted, whether one that the message does not hold is null or left out.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

FIELDS = ("intent", "order", "product", "city", "priority")
INTENTS = ("refund", "exchange", "delivery", "cancel", "damage", "invoice", "address", "other")
PRIORITIES = ("low", "normal", "high")

Split = Literal["train", "values", "phrasings"]
Form = Literal["json", "lines"]
Missing = Literal["null", "omit"]


@dataclass(frozen=True, slots=True)
class Style:
    """How the system prompt wants the answer; the default is what a missing prompt means.

    Attributes:
        fields: which, always in the order of `FIELDS`.
    """

    fields: tuple[str, ...] = FIELDS
    form: Form = "json"
    missing: Missing = "null"


@dataclass(frozen=True, slots=True)
class Ticket:
    """What a message says; None where it says nothing."""

    intent: str = "other"
    order: str | None = None
    product: str | None = None
    city: str | None = None
    priority: str = "normal"


@dataclass(frozen=True, slots=True)
class Example:
    """A conversation of one turn: system prompt (empty for none), message, and the only right answer."""

    system: str
    message: str
    answer: str
    ticket: Ticket
    style: Style


def write_answer(ticket: Ticket, style: Style = Style()) -> str:
    """The answer to a ticket in a style."""
    values = {name: getattr(ticket, name) for name in style.fields}
    if style.missing == "omit":
        values = {name: value for name, value in values.items() if value is not None}
    if style.form == "json":
        return json.dumps(values, separators=(",", ":"), ensure_ascii=False)
    return "\n".join(f"{name}: {'none' if value is None else value}" for name, value in values.items())


def examples(seed: int, count: int, split: Split) -> list[Example]:
    """`count` examples of a split; the same seed gives the same ones on every machine."""
    maker = _Maker(random.Random(f"detent-tiny/{split}/{seed}"), split)  # noqa: S311 - data, not secrets
    return [maker.example() for _ in range(count)]


_LEXICON = Path(__file__).with_name("lexicon.json")
_HELD_OUT = 7
"""Order numbers that leave `_HELD_OUT_REST` when divided by this are kept from training."""

_HELD_OUT_REST = 3
_INVENTED = 0.85
"""Share of the cities and products to learn from that are no words at all."""

_LINES_LEARNED = 0.4
"""Share of prompts to learn from that want lines: more than is measured with, for they are harder to learn."""

_NOUNS = 94
"""The lexicon's words begin with this many nouns."""

_EITHER = re.compile(r"\[([^\]]*)\]")
_LETTERS = "aaabcdeeeefghiiijklmnooopqrrsssttuuvwxyz"


@cache
def _lexicon() -> Mapping[str, Any]:
    """Words and sentences; where a list is split, `unseen` is kept from training. `[a|b]` is either."""
    lexicon: Mapping[str, Any] = json.loads(_LEXICON.read_bytes())
    return lexicon


@cache
def _kept() -> frozenset[str]:
    """Single words of the values that training must not make up by chance."""
    groups = (_lexicon()[name]["unseen"] for name in ("cities", "products", "names"))
    return frozenset(word.lower() for values in groups for value in values for word in value.split())


class _Maker:
    """Draws examples of one split from one stream of chance."""

    def __init__(self, chance: random.Random, split: Split) -> None:
        self._chance = chance
        self._new_values = split != "train"
        self._new_sentences = split == "phrasings"
        self._lexicon = _lexicon()

    def example(self) -> Example:
        kind = self._chance.random()
        if kind < 0.84:
            message, ticket = self._request()
        elif kind < 0.95:
            message, ticket = self._chatter()
        else:
            message, ticket = self._noise()
        system, style = self._system()
        return Example(system, message, write_answer(ticket, style), ticket, style)

    def _request(self) -> tuple[str, Ticket]:
        chance = self._chance
        intent = chance.choice(INTENTS)
        statement = self._phrase(self._lexicon["statements"][intent])
        product = self._product() if "{product}" in statement else None
        order = self._order() if chance.random() < 0.75 else None
        city = self._city() if chance.random() < 0.65 else None
        priority = chance.choices(PRIORITIES, (1, 2, 1))[0]
        parts: list[str] = []
        if city and chance.random() < 0.25 and intent != "address":
            statement = statement[:-1] + chance.choice(self._lexicon["where"]) + statement[-1]
        elif city:
            parts.append(self._phrase(self._lexicon["places"]))
        if order:
            if chance.random() < 0.2:
                statement = statement[:-1] + chance.choice(self._lexicon["inline"]) + statement[-1]
            else:
                parts.append(self._phrase(self._lexicon["orders"]))
        if priority != "normal":
            parts.append(self._phrase(self._lexicon["priorities"][priority]))
        if chance.random() < 0.35:
            parts.append(chance.choice(self._lexicon["fillers"]))
        if chance.random() < 0.15:
            parts.append(chance.choice(self._lexicon["named"]))
        chance.shuffle(parts)
        parts.insert(0 if chance.random() < 0.7 else chance.randint(0, len(parts)), statement)
        if chance.random() < 0.4:
            parts.insert(0, chance.choice(self._lexicon["greetings"]))
        if chance.random() < 0.3:
            parts.append(chance.choice(self._lexicon["closings"]))
        text = self._fill(" ".join(parts), order, product, city)
        ticket = Ticket(intent, order, product, city, priority)
        return self._roughen(text, ticket)

    def _chatter(self) -> tuple[str, Ticket]:
        text = self._phrase(self._lexicon["chatter"])
        return self._roughen(self._fill(text, None, None, self._city()), Ticket())

    def _noise(self) -> tuple[str, Ticket]:
        """Words without sense: the model learns to say `other` to what it does not know."""
        text, chance = self._nonsense(self._chance.randint(1, 30)), self._chance
        return (text.capitalize() + chance.choice((".", "?", "!")) if chance.random() < 0.5 else text), Ticket()

    def _nonsense(self, count: int) -> str:
        known, chance = self._lexicon["words"], self._chance
        return " ".join(chance.choice(known) if chance.random() < 0.8 else self._invented() for _ in range(count))

    def _system(self) -> tuple[str, Style]:
        chance = self._chance
        if chance.random() < 0.4:
            return "", Style()
        parts = [self._phrase(self._lexicon["roles"])] if chance.random() < 0.6 else []
        if chance.random() < 0.1:
            parts.insert(0, self._nonsense(chance.randint(3, 20)).capitalize() + ".")
        rules: list[str] = []
        fields: tuple[str, ...] = FIELDS
        form: Form = "json"
        missing: Missing = "null"
        if chance.random() < 0.5:
            named = chance.sample(FIELDS, chance.randint(1, 4))
            fields = tuple(name for name in FIELDS if name in named)
            rules.append(self._phrase(self._lexicon["only"]).replace("{fields}", self._listed(named)))
        if chance.random() < (0.25 if self._new_values else _LINES_LEARNED):
            form = "lines"
            rules.append(self._phrase(self._lexicon["lines"]))
            parts = [part for part in parts if "JSON" not in part]
        if fields == FIELDS and chance.random() < 0.4:
            missing = "omit"
            rules.append(self._phrase(self._lexicon["omit"]))
        chance.shuffle(rules)
        text = " ".join(parts + rules)
        return text, Style(fields, form, missing) if text else Style()

    def _listed(self, names: Sequence[str]) -> str:
        if len(names) == 1:
            return names[0]
        joint = self._chance.choice((" and ", ", "))
        return ", ".join(names[:-1]) + joint + names[-1]

    def _fill(self, text: str, order: str | None, product: str | None, city: str | None) -> str:
        chance = self._chance
        for slot, value in (("{order}", order), ("{product}", product), ("{city}", city)):
            text = text.replace(slot, value or "")
        while "{name}" in text:
            text = text.replace("{name}", chance.choice(self._values("names")), 1)
        while "{small}" in text:
            text = text.replace("{small}", str(chance.randint(2, 99)), 1)
        return text

    def _roughen(self, text: str, ticket: Ticket) -> tuple[str, Ticket]:
        """People write carelessly: without capitals, without full stops."""
        chance = self._chance
        if chance.random() < 0.15:
            text = text.lower()
            city, product = (value and value.lower() for value in (ticket.city, ticket.product))
            ticket = Ticket(ticket.intent, ticket.order, product, city, ticket.priority)
        if chance.random() < 0.1:
            text = text.replace(". ", " ").rstrip(".")
        return text, ticket

    def _phrase(self, phrases: Mapping[str, Sequence[str]]) -> str:
        """One of the sentences, with one way through its `[either|or]`."""
        chosen = self._chance.choice(phrases["unseen" if self._new_sentences else "seen"])
        text = " ".join(_EITHER.sub(lambda found: self._chance.choice(found[1].split("|")), chosen).split())
        return text[0].upper() + text[1:]

    def _values(self, name: str) -> Sequence[str]:
        values: Sequence[str] = self._lexicon[name]["unseen" if self._new_values else "seen"]
        return values

    def _order(self) -> str:
        while True:
            digits = self._chance.choices((5, 6, 7, 8), (5, 2, 1, 1))[0]
            number = self._chance.randrange(10 ** (digits - 1), 10**digits)
            if (number % _HELD_OUT == _HELD_OUT_REST) == self._new_values:
                return str(number)

    def _city(self) -> str:
        if not self._new_values and self._chance.random() < _INVENTED:
            words = (self._invented().capitalize() for _ in range(1 if self._chance.random() < 0.8 else 2))
            return " ".join(words)
        return self._chance.choice(self._values("cities"))

    def _product(self) -> str:
        if not self._new_values and self._chance.random() < _INVENTED:
            words = 1 if self._chance.random() < 0.7 else 2
            return " ".join(self._invented() if self._chance.random() < 0.6 else self._noun() for _ in range(words))
        return self._chance.choice(self._values("products"))

    def _noun(self) -> str:
        return str(self._chance.choice(self._lexicon["words"][:_NOUNS]))

    def _invented(self) -> str:
        """A word that nobody has seen, so that copying is learned and not a list. Never a held-out value."""
        chance = self._chance
        while True:
            kind = chance.random()
            if kind < 0.45:
                word = "".join(chance.choice(self._lexicon["syllables"]) for _ in range(chance.randint(2, 4)))
            elif kind < 0.8:
                word = "".join(chance.choices(_LETTERS, k=chance.randint(3, 9)))
            else:  # the same letters again and again: where one is does not tell what comes next
                word = "".join(chance.choices(chance.choices(_LETTERS, k=3), k=chance.randint(4, 9)))
            if word not in _kept():
                return word
