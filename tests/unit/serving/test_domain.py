"""The generated data: the same for a seed, right by construction, and nothing measured was ever learned."""

from __future__ import annotations

import json

import pytest

from detent.serving.engines.tiny.domain import FIELDS, INTENTS, PRIORITIES, Split, Style, Ticket, examples, write_answer

COUNT = 4000


@pytest.mark.parametrize("split", ["train", "values", "phrasings"])
def test_the_same_seed_gives_the_same_examples(split: Split) -> None:
    assert examples(5, 50, split) == examples(5, 50, split)
    assert examples(5, 50, split) != examples(6, 50, split)


@pytest.mark.parametrize("split", ["train", "values", "phrasings"])
def test_every_value_stands_in_the_message(split: Split) -> None:
    for example in examples(2, COUNT, split):
        ticket = example.ticket
        assert ticket.intent in INTENTS
        assert ticket.priority in PRIORITIES
        assert all(value in example.message for value in (ticket.order, ticket.product, ticket.city) if value)
        assert "{" not in example.message + example.system


@pytest.mark.parametrize("split", ["values", "phrasings"])
def test_no_measured_value_occurs_in_training(split: Split) -> None:
    learned = examples(1, COUNT, "train")
    measured = examples(1, COUNT, split)
    for field in ("order", "product", "city"):
        known = {getattr(e.ticket, field).lower() for e in learned if getattr(e.ticket, field)}
        asked = {getattr(e.ticket, field).lower() for e in measured if getattr(e.ticket, field)}
        assert asked
        assert not asked & known
    assert not {e.message for e in learned if e.ticket.order} & {e.message for e in measured}


def test_all_intents_priorities_and_styles_occur() -> None:
    made = examples(3, COUNT, "values")
    assert {e.ticket.intent for e in made} == set(INTENTS)
    assert {e.ticket.priority for e in made} == set(PRIORITIES)
    assert {e.style.form for e in made} == {"json", "lines"}
    assert {e.style.missing for e in made} == {"null", "omit"}
    assert {len(e.style.fields) for e in made} == {1, 2, 3, 4, 5}
    assert all(e.style == Style() for e in made if not e.system)
    assert all(e.style.fields == FIELDS for e in made if e.style.missing == "omit")
    assert all(e.style.fields == tuple(f for f in FIELDS if f in e.style.fields) for e in made)


def test_an_answer_is_compact_json_in_the_order_of_its_style() -> None:
    ticket = Ticket("refund", "48213", None, "Leeds", "high")
    assert write_answer(ticket) == (
        '{"intent":"refund","order":"48213","product":null,"city":"Leeds","priority":"high"}'
    )
    assert write_answer(ticket, Style(("city", "product"))) == '{"city":"Leeds","product":null}'
    assert write_answer(ticket, Style(("city", "product"), missing="omit")) == '{"city":"Leeds"}'
    assert write_answer(ticket, Style(("order", "product"), form="lines")) == "order: 48213\nproduct: none"


def test_a_json_answer_parses_to_the_ticket() -> None:
    for example in examples(4, 500, "train"):
        if example.style.form == "json":
            answer = json.loads(example.answer)
            assert list(answer) == [f for f in example.style.fields if f in answer]
            assert all(answer[f] == getattr(example.ticket, f) for f in answer)
            assert set(answer) <= set(FIELDS)
