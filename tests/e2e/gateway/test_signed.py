"""Amazon Bedrock behind a real worker with a sealed credential: what arrives is signed, and the signature holds."""

from __future__ import annotations

import json
from collections.abc import Callable
from types import ModuleType
from typing import Any
from urllib.parse import quote

import openai
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from msgspec.structs import replace
from tests.e2e.gateway.wires import BedrockWire

from detent.guard.vault import open_vault
from detent.kernel.secret import Secret

pytestmark = pytest.mark.e2e

ACCESS, SECRET, SESSION = "AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", "IQoJb3JpZ2luX2VjEXAMPLE=="
REGION = "eu-central-1"
WIRE = BedrockWire()
ASK: Any = [{"role": "user", "content": "Weather?"}]
TOOL: Any = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}
MODELS = [
    "amazon.nova-lite-v1:0",
    "arn:aws:bedrock:eu-central-1:123456789012:inference-profile/eu.anthropic.claude-sonnet-4-5-20250929-v1:0",
]


def begin(start: Callable[..., Any], tools: ModuleType, upstream: Any, credential: str, model: str, home: Any) -> Any:
    url = upstream.url.removesuffix("/v1")
    made = tools.snapshot({"m": [url]}, dialects={url: "bedrock"})
    (home / "keys").mkdir()
    sealed = open_vault(home / "keys" / "root.key").seal(Secret(credential), url=url)
    providers = {path: replace(each, sealed=sealed, region=REGION) for path, each in made.providers.items()}
    routes = {
        path: replace(each, targets=tuple(replace(target, model=model) for target in each.targets))
        for path, each in made.routes.items()
    }
    worker = start(replace(made, providers=providers, routes=routes))
    worker.wait_ready()
    return worker


def signature(request: Any, port: int, token: str | None) -> str:
    """What AWS computes for a request as it arrived, of the headers that it says it signed."""
    found = request.headers["authorization"]
    names = found.partition("SignedHeaders=")[2].partition(",")[0].split(";")
    method, path, _ = request.line.split(" ")
    arrived = AWSRequest(
        method=method,
        url=f"http://127.0.0.1:{port}{path}",
        data=request.raw,
        headers={name: request.headers[name] for name in names},
    )
    arrived.context["timestamp"] = request.headers["x-amz-date"]
    auth = SigV4Auth(Credentials(ACCESS, SECRET, token), "bedrock", REGION)
    text = auth.string_to_sign(arrived, auth.canonical_request(arrived))
    return str(auth.signature(text, arrived))


@pytest.mark.parametrize("model", MODELS, ids=["id", "arn"])
@pytest.mark.parametrize("session", ["", SESSION], ids=["key", "session"])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_a_request_is_signed(
    start: Callable[..., Any], tools: ModuleType, upstream: Any, tmp_path: Any, model: str, session: str, stream: bool
) -> None:
    credential = f"{ACCESS}:{SECRET}" + (f":{session}" if session else "")
    worker = begin(start, tools, upstream, credential, model, tmp_path)
    pieces = (tools.chunk(WIRE.role() + WIRE.text("Sun")), tools.chunk(WIRE.text("ny.") + WIRE.finish()), tools.END)
    upstream.script((WIRE.head(), *pieces, tools.KEEP) if stream else (tools.answer(WIRE.whole("Sunny.")), tools.KEEP))
    with openai.OpenAI(base_url=f"{worker.url}/v1", api_key=tools.KEY, max_retries=0) as sdk:
        found: Any = sdk.chat.completions.create(model="m", messages=ASK, tools=[TOOL], stream=stream)
        said = (
            "".join(piece.choices[0].delta.content or "" for piece in found)
            if stream
            else found.choices[0].message.content
        )
    assert said == "Sunny."
    request = upstream.requests[-1]
    assert request.line == f"POST /model/{quote(model, safe='')}/converse{'-stream' if stream else ''} HTTP/1.1"
    assert json.loads(request.raw)["toolConfig"]["tools"][0]["toolSpec"]["name"] == "weather"
    authorization = request.headers["authorization"]
    day = request.headers["x-amz-date"][:8]
    assert authorization.startswith(f"AWS4-HMAC-SHA256 Credential={ACCESS}/{day}/{REGION}/bedrock/aws4_request, ")
    assert request.headers.get("x-amz-security-token", "") == session
    signed = authorization.partition("SignedHeaders=")[2].partition(",")[0].split(";")
    assert {"host", "content-type", "x-amz-date", *(["x-amz-security-token"] if session else [])} <= set(signed)
    assert authorization.rpartition("Signature=")[2] == signature(request, upstream.port, session or None)
    assert SECRET not in authorization + request.raw.decode()


def test_every_retry_is_signed_for_itself(
    start: Callable[..., Any], tools: ModuleType, upstream: Any, tmp_path: Any
) -> None:
    worker = begin(start, tools, upstream, f"{ACCESS}:{SECRET}", MODELS[0], tmp_path)
    upstream.script((tools.answer(WIRE.whole("x")), tools.KEEP))
    for words in ("One?", "Two?"):
        assert worker.chat({"messages": [{"role": "user", "content": words}]}).status == 200
    first, second = (request.headers["authorization"].rpartition("=")[2] for request in upstream.requests)
    assert first != second
    assert [signature(request, upstream.port, None) for request in upstream.requests] == [first, second]


def test_an_api_key_is_sent_as_it_is(
    start: Callable[..., Any], tools: ModuleType, upstream: Any, tmp_path: Any
) -> None:
    worker = begin(start, tools, upstream, "bedrock-api-key-YmVkcm9jaw", MODELS[0], tmp_path)
    upstream.script((tools.answer(WIRE.whole("x")), tools.KEEP))
    assert worker.chat().status == 200
    headers = upstream.requests[-1].headers
    assert (headers["authorization"], headers.get("x-amz-date")) == ("Bearer bedrock-api-key-YmVkcm9jaw", None)


def test_half_a_credential_is_told(start: Callable[..., Any], tools: ModuleType, upstream: Any, tmp_path: Any) -> None:
    url = upstream.url.removesuffix("/v1")
    made = tools.snapshot({"m": [url], "well": [upstream.url]}, dialects={url: "bedrock"})
    (tmp_path / "keys").mkdir()
    sealed = open_vault(tmp_path / "keys" / "root.key").seal(Secret(f"{ACCESS}:"), url=url)
    providers = {
        path: replace(each, sealed=sealed, region=REGION) if each.dialect == "bedrock" else each
        for path, each in made.providers.items()
    }
    worker = start(replace(made, providers=providers))
    worker.wait_ready()
    got = worker.chat()
    error = json.loads(got.read())["error"]
    assert (got.status, error["code"]) == (502, "credential_unusable")
    assert upstream.requests == []
