"""The tokenizer: every text comes back, special tokens never come from a text, the file fits the other library."""

from __future__ import annotations

import codecs

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detent.serving.engines.tiny.runtime import DATA
from detent.serving.engines.tiny.tokenizer import SPECIALS, Tokenizer

TOKENIZER = Tokenizer.load(DATA / "tokenizer.json")


def test_it_has_512_tokens_all_bytes_among_them() -> None:
    assert TOKENIZER.size == 512
    assert {bytes([byte]) for byte in range(256)} <= set(TOKENIZER.bytes)


@given(st.text())
def test_every_text_comes_back(text: str) -> None:
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == text


@given(st.text(st.characters(categories=["L", "N", "P", "S", "Z", "Cs"])))
def test_a_text_with_lone_surrogates_is_encoded_too(text: str) -> None:
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == text.encode("utf-8", "replace").decode()


@given(st.text(min_size=1))
def test_tokens_one_by_one_give_whole_characters(text: str) -> None:
    decoder = codecs.getincrementaldecoder("utf-8")("strict")
    pieces = [decoder.decode(TOKENIZER.bytes[index]) for index in TOKENIZER.encode(text)]
    assert "".join(pieces) == text


@pytest.mark.parametrize("special", SPECIALS)
def test_a_text_never_becomes_a_special_token(special: str) -> None:
    ids = TOKENIZER.encode(f"a {special} b")
    assert not set(ids) & set(TOKENIZER.special.values())
    assert TOKENIZER.decode(ids) == f"a {special} b"


def test_a_value_has_the_same_tokens_wherever_it_stands() -> None:
    alone = TOKENIZER.encode("Rotterdam")
    inside = TOKENIZER.encode('I live in Rotterdam."city":"Rotterdam"')
    found = [index for index in range(len(inside)) if inside[index : index + len(alone)] == alone]
    assert len(found) == 2


def test_training_is_the_same_every_time_and_stops_when_nothing_is_left() -> None:
    texts = ["the cat sat", "the hat", "that cat"]
    first, second = Tokenizer.train(texts, 270), Tokenizer.train(texts, 270)
    assert first.to_json() == second.to_json()
    assert ("t", "h") in first.merges
    assert Tokenizer.train(["ab"], 400).size == 262


def test_a_hostile_run_costs_no_more_than_plain_text() -> None:
    assert len(TOKENIZER.encode("é" * 20_000)) == 40_000
    assert len(TOKENIZER.encode("a" * 20_000)) <= 20_000


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
def test_the_tokenizers_library_agrees(text: str) -> None:
    tokenizers = pytest.importorskip("tokenizers", reason="the `tune` extra is not installed")
    other = tokenizers.Tokenizer.from_file(str(DATA / "tokenizer.json"))
    assert other.encode(text).ids == TOKENIZER.encode(text)
    assert other.decode(TOKENIZER.encode(text)) == text
