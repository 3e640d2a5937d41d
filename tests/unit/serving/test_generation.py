"""Answers token by token: where they end, what is held back, what a seed fixes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detent.kernel.errors import InvalidInput
from detent.serving.engines.tiny.chat import render
from detent.serving.engines.tiny.generation import Answer, Sampling, Tiny, _Text

TINY = Tiny.load()
HELLO = [("user", "Hello")]
PLAIN = '{"intent":"other","order":null,"product":null,"city":null,"priority":"normal"}'


def say(**sampling: object) -> Answer:
    return TINY.answer(HELLO, Sampling(**sampling))  # type: ignore[arg-type]


def test_a_greeting_is_answered_and_counted() -> None:
    assert say() == Answer(PLAIN, "stop", len(render(TINY.tokenizer, HELLO)), len(TINY.tokenizer.encode(PLAIN)))


def test_pieces_make_up_the_answer() -> None:
    made = TINY.begin(HELLO)
    pieces = [piece.text for piece in made]
    assert "".join(pieces) == PLAIN
    assert sum(1 for text in pieces if text) == made.completion_tokens


@pytest.mark.parametrize("limit", [1, 2, 7])
def test_max_tokens_ends_it(limit: int) -> None:
    answer = say(max_tokens=limit)
    assert (answer.finish, answer.completion_tokens) == ("length", limit)
    assert PLAIN.startswith(answer.text)


def test_a_limit_that_is_not_reached_changes_nothing() -> None:
    assert say(max_tokens=1000) == say()


@pytest.mark.parametrize(
    ("stop", "text"),
    [
        (("order",), '{"intent":"other","'),
        (('er","',), '{"intent":"oth'),
        (("zz", "null", "priority"), '{"intent":"other","order":'),
        (("{",), ""),
    ],
)
def test_a_stop_text_ends_it_and_is_left_out(stop: tuple[str, ...], text: str) -> None:
    answer = say(stop=stop)
    assert (answer.text, answer.finish) == (text, "stop")


def test_what_only_looked_like_a_stop_text_comes_after_all() -> None:
    assert say(stop=('"normal"}!',)).text == PLAIN


def test_a_seed_fixes_a_sampled_answer() -> None:
    answers = {say(temperature=2.0, seed=7, max_tokens=60).text for _ in range(3)}
    assert len(answers) == 1
    assert len({say(temperature=2.0, seed=seed, max_tokens=60).text for seed in range(8)}) > 1


def test_a_small_top_p_is_greedy() -> None:
    assert say(temperature=2.0, top_p=1e-6, seed=3) == say()


def test_bias_forbids_and_forces() -> None:
    first = TINY.tokenizer.encode("{")[0]
    assert say(bias={first: 100.0}, max_tokens=3).text == "{{{"
    said = TINY.tokenizer.encode(PLAIN)[0]
    assert not say(bias={said: -100.0}, max_tokens=1).text.startswith(TINY.tokenizer.decode([said]))


def test_penalties_keep_it_from_repeating() -> None:
    first = TINY.tokenizer.encode("{")[0]
    assert say(bias={first: 60.0}, presence_penalty=2.0, max_tokens=2).text == "{{"
    assert say(bias={first: 60.0}, frequency_penalty=100.0, max_tokens=2).text != "{{"


def test_special_tokens_are_never_said() -> None:
    silent = {index: 100.0 for name, index in TINY.tokenizer.special.items() if name != "<|end|>"}
    assert say(bias=silent) == say()


def test_logprobs_are_told_before_sampling() -> None:
    made = TINY.begin(HELLO, Sampling(temperature=1.0, seed=1), logprobs=5)
    tokens = [piece.token for piece in made if piece.token]
    assert len(tokens) == made.completion_tokens
    for token in tokens:
        assert len(token.top) == 5
        assert token.logprob <= token.top[0][1] <= 0
        assert [value for _, value in token.top] == sorted((value for _, value in token.top), reverse=True)


def test_a_conversation_that_is_too_long_is_refused_at_once() -> None:
    context = TINY.llama.shape.context
    for text in ("1" * context, "a" * 10_000_000):
        with pytest.raises(InvalidInput, match="read"):
            TINY.begin([("user", text)])


def test_a_full_context_leaves_room_for_what_is_left() -> None:
    room = TINY.llama.shape.context - len(render(TINY.tokenizer, [("user", "")]))
    made = TINY.begin([("user", "1" * (room - 1))])
    assert list(made)
    assert made.completion_tokens <= 1


def test_only_the_last_message_of_the_user_counts() -> None:
    turns = [("user", "My kettle broke."), ("assistant", "{}"), *HELLO]
    assert TINY.answer(turns) == say()


def test_the_template_in_the_folder_says_the_same() -> None:
    jinja2 = pytest.importorskip("jinja2")
    from detent.serving.engines.tiny.runtime import DATA

    template = jinja2.Environment().from_string((DATA / "chat_template.jinja").read_text())
    turns = [
        ("system", "Be brief."),
        ("user", "a <b>"),
        ("assistant", "x"),
        ("developer", "Now."),
        ("user", "c\n d "),
        ("assistant", "{"),
    ]
    marks = {index: name for name, index in TINY.tokenizer.special.items()}
    for count in range(1, len(turns) + 1):
        for answer in (True, False):
            messages = [{"role": role, "content": text} for role, text in turns[:count]]
            expected = template.render(messages=messages, add_generation_prompt=answer)
            ids = render(TINY.tokenizer, turns[:count], answer=answer)
            text = "".join(marks.get(index) or TINY.tokenizer.bytes[index].decode() for index in ids)
            assert text == expected


@given(st.text(), st.lists(st.integers(1, 4)), st.lists(st.text(min_size=1, max_size=4), max_size=1))
def test_no_way_to_cut_bytes_changes_the_text(text: str, cuts: list[int], stops: list[str]) -> None:
    whole = min((found for stop in stops if (found := text.find(stop)) >= 0), default=len(text))
    stream, shown, data, stopped = _Text(tuple(stops)), "", text.encode(), False
    for cut in [*cuts, *[1] * len(data)]:
        part, data = data[:cut], data[cut:]
        new, stopped = stream.add(part)
        shown += new
        if stopped or not data:
            break
    assert shown + ("" if stopped else stream.close()) == text[:whole]
