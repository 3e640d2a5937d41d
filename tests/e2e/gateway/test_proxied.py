"""Endpoints that are passed on as they are, called by the SDK that people use."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.client import IncompleteRead
from pathlib import Path
from types import ModuleType
from typing import Any

import openai
import pytest

from detent.gateway.snapshot import publish

pytestmark = pytest.mark.e2e


class Stage:
    """One worker, and a provider behind the route `m`."""

    def __init__(self, tools: ModuleType, folder: Path) -> None:
        self.upstream = tools.Upstream()
        self.second = tools.Upstream()
        chain = [self.upstream.url, self.second.url]
        publish(tools.snapshot({"m": chain[:1], "two": chain}), folder / "snapshot")
        self.worker = tools.Worker(folder, {})
        self.worker.wait_ready()
        self.sdk = openai.OpenAI(base_url=f"{self.worker.url}/v1", api_key=tools.KEY, max_retries=0)

    def last(self) -> Any:
        return self.upstream.requests[-1]

    def span(self) -> Any:
        return self.worker.spans()[-1]


@pytest.fixture(scope="module")
def stage(tools: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    found = Stage(tools, tmp_path_factory.mktemp("gateway"))
    yield found
    found.sdk.close()
    assert found.worker.stop() == 0, found.worker.errors.read_text()
    found.upstream.close()
    found.second.close()


def scripted(stage: Stage, tools: ModuleType, body: Any) -> None:
    stage.upstream.script((tools.answer(json.dumps(body).encode()), tools.KEEP))


EMBEDDED = {
    "object": "list",
    "model": "real-7",
    "data": [{"object": "embedding", "index": 0, "embedding": [0.5, -0.25]}],
    "usage": {"prompt_tokens": 4, "total_tokens": 4},
}


def test_embeddings(stage: Stage, tools: ModuleType) -> None:
    scripted(stage, tools, EMBEDDED)
    answer = stage.sdk.embeddings.create(model="m", input=["some text"], encoding_format="float", dimensions=2)
    assert answer.data[0].embedding == [0.5, -0.25]
    request = stage.last()
    assert request.line == "POST /v1/embeddings HTTP/1.1"
    assert request.json == {"model": "real-model", "input": ["some text"], "encoding_format": "float", "dimensions": 2}
    span = stage.span()
    assert (span.operation, span.name, span.response_model) == ("embeddings", "embeddings m", "real-7")
    assert (span.input_tokens, span.output_tokens, span.usage_estimated, span.cost) == (4, 0, False, 4000)
    assert span.attributes["gen_ai.embeddings.dimension.count"] == 2
    assert json.loads(span.input) == ["some text"]


def test_embeddings_without_usage_are_estimated(stage: Stage, tools: ModuleType) -> None:
    scripted(stage, tools, {k: v for k, v in EMBEDDED.items() if k != "usage"})
    stage.sdk.embeddings.create(model="m", input="x" * 40, encoding_format="float")
    assert (stage.span().input_tokens, stage.span().usage_estimated) == (11, True)


def test_moderation(stage: Stage, tools: ModuleType) -> None:
    scripted(stage, tools, {"id": "modr-1", "model": "mod", "results": []})
    assert stage.sdk.moderations.create(model="m", input="fine").id == "modr-1"
    assert stage.last().line == "POST /v1/moderations HTTP/1.1"
    assert stage.span().operation == "moderation"


def test_rerank(stage: Stage, tools: ModuleType) -> None:
    scripted(stage, tools, {"results": [{"index": 1, "relevance_score": 0.9}], "usage": {"prompt_tokens": 9}})
    body = {"model": "m", "query": "q", "documents": ["a", "b"], "top_n": 1, "own_field": {"kept": True}}
    got = stage.worker.ask("POST", "/v1/rerank", json.dumps(body).encode(), {"authorization": f"Bearer {tools.KEY}"})
    assert (got.status, json.loads(got.read())["results"][0]["index"]) == (200, 1)
    assert stage.last().json == {**body, "model": "real-model"}
    assert stage.span().input_tokens == 9


def test_images(stage: Stage, tools: ModuleType) -> None:
    scripted(
        stage, tools, {"created": 1, "data": [{"b64_json": "aGk="}], "usage": {"input_tokens": 7, "output_tokens": 90}}
    )
    assert stage.sdk.images.generate(model="m", prompt="a cat").data is not None
    assert stage.last().line == "POST /v1/images/generations HTTP/1.1"
    assert (stage.span().input_tokens, stage.span().output_tokens) == (7, 90)


def test_an_image_without_figures_is_not_estimated(stage: Stage, tools: ModuleType) -> None:
    scripted(stage, tools, {"created": 1, "data": [{"url": "https://example.com/cat.png"}]})
    stage.sdk.images.generate(model="m", prompt="a cat")
    assert (stage.span().input_tokens, stage.span().output_tokens, stage.span().cost) == (0, 0, None)


def test_speech_comes_as_bytes(stage: Stage, tools: ModuleType) -> None:
    sound = bytes(range(256)) * 400
    half = len(sound) // 2
    stage.upstream.script(
        (
            b"HTTP/1.1 200 OK\r\ncontent-type: audio/mpeg\r\ntransfer-encoding: chunked\r\n\r\n",
            tools.chunk(sound[:half]),
            0.05,
            tools.chunk(sound[half:]),
            tools.END,
            tools.KEEP,
        )
    )
    with stage.sdk.audio.speech.with_streaming_response.create(model="m", voice="alloy", input="hello") as got:
        assert got.headers["content-type"] == "audio/mpeg"
        assert got.read() == sound
    assert stage.last().json["model"] == "real-model"
    assert (stage.span().operation, stage.span().http_status, stage.span().error_type) == ("speech", 200, "")


def test_speech_that_breaks_off_is_cut_off(stage: Stage, tools: ModuleType) -> None:
    stage.upstream.script(
        (
            b"HTTP/1.1 200 OK\r\ncontent-type: audio/mpeg\r\ntransfer-encoding: chunked\r\n\r\n",
            tools.chunk(b"half"),
            tools.RESET,
        )
    )
    body = json.dumps({"model": "m", "voice": "a", "input": "hello"}).encode()
    got = stage.worker.ask("POST", "/v1/audio/speech", body, {"authorization": f"Bearer {tools.KEY}"})
    with pytest.raises((IncompleteRead, ConnectionError)):
        got.read()
    assert stage.worker.span(got).error_type == "upstream_cut"


def test_transcription_forms_are_passed_on(stage: Stage, tools: ModuleType) -> None:
    scripted(stage, tools, {"text": "hello", "usage": {"type": "tokens", "input_tokens": 14, "output_tokens": 2}})
    sound = b'--not a boundary\r\n\r\nname="model"' * 3 + bytes(range(256))
    answer = stage.sdk.audio.transcriptions.create(model="m", file=("a.wav", sound), language="en")
    assert answer.text == "hello"
    sent = stage.last()
    assert sent.line == "POST /v1/audio/transcriptions HTTP/1.1"
    assert b'name="model"\r\n\r\nreal-model\r\n' in sent.raw
    assert sound in sent.raw
    assert int(sent.headers["content-length"]) == len(sent.raw)
    assert (stage.span().operation, stage.span().input_tokens) == ("transcription", 14)


def test_a_form_sent_anew_to_the_next_provider(stage: Stage, tools: ModuleType) -> None:
    stage.upstream.script((tools.answer(b"{}", "500 Sorry"), tools.KEEP))
    stage.second.script((tools.answer(b'{"text": "second"}'), tools.KEEP))
    assert stage.sdk.audio.transcriptions.create(model="two", file=("a.wav", b"RIFF")).text == "second"
    assert b"\r\n\r\nreal-model\r\n" in stage.second.requests[-1].raw


FORM = "multipart/form-data; boundary=b"


@pytest.mark.parametrize(
    ("kind", "body", "code"),
    [
        (FORM, b'--b\r\ncontent-disposition: form-data; name="x"\r\n\r\n1\r\n--b--\r\n', "invalid_input"),
        (FORM, b'--b\r\ncontent-disposition: form-data; name="model"\r\n\r\nm', "malformed_json"),
        (FORM, b'--b\r\ncontent-disposition: form-data; name="model"\r\n\r\n\r\n--b--\r\n', "invalid_input"),
        (FORM, b"", "malformed_json"),
        (FORM, b"--b", "malformed_json"),
        ("multipart/form-data", b"--b--", "malformed_json"),
        ("application/json", b'{"input": "x"}', "invalid_input"),
        ("application/json", b"[]", "invalid_input"),
    ],
)
def test_bad_bodies(stage: Stage, tools: ModuleType, kind: str, body: bytes, code: str) -> None:
    headers = {"authorization": f"Bearer {tools.KEY}", "content-type": kind}
    got = stage.worker.ask("POST", "/v1/audio/transcriptions", body, headers)
    assert (got.status, json.loads(got.read())["error"]["code"]) == (400, code)
