"""The scripted model, as the openai package sees it."""

from __future__ import annotations

import openai
import pytest
from openai import OpenAI

from detent.testing import Fault, ScriptedModel

MESSAGES = [{"role": "user", "content": "Where is it now?"}]


def ask(model: ScriptedModel, **more: object) -> object:
    with OpenAI(base_url=model.url, api_key="k", max_retries=0) as client:
        return client.chat.completions.create(model="m", messages=MESSAGES, **more)  # type: ignore[call-overload]


def test_answers_come_in_turn_and_the_last_stays() -> None:
    with ScriptedModel(["one", "two"]) as model:
        said = [ask(model).choices[0].message.content for _ in range(3)]  # type: ignore[attr-defined]
    assert said == ["one", "two", "two"]
    assert [call["messages"] for call in model.calls] == [MESSAGES] * 3
    assert model.headers[0]["authorization"] == "Bearer k"


def test_tokens_are_words() -> None:
    with ScriptedModel(["in Lyon"]) as model:
        usage = ask(model).usage  # type: ignore[attr-defined]
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (4, 2, 6)


def test_streams_come_word_by_word() -> None:
    scripted = ScriptedModel(lambda call: f"you asked {call['messages'][0]['content']}")
    with scripted as model, OpenAI(base_url=model.url, api_key="k") as client:
        stream = client.chat.completions.create(
            model="m",
            messages=MESSAGES,  # type: ignore[arg-type]
            stream=True,
            stream_options={"include_usage": True},
        )
        chunks = list(stream)
    words = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices and chunk.choices[0].delta.content]
    assert words == ["you", " asked", " Where", " is", " it", " now?"]
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 6


def test_faults() -> None:
    with ScriptedModel([Fault(429, retry_after=3), "fine"]) as model:
        with pytest.raises(openai.RateLimitError) as caught:
            ask(model)
        assert caught.value.response.headers["retry-after"] == "3"
        assert ask(model).choices[0].message.content == "fine"  # type: ignore[attr-defined]


def test_it_needs_an_answer() -> None:
    with pytest.raises(ValueError, match="needs an answer"):
        ScriptedModel([])
