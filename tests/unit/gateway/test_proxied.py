"""What is read of requests and answers that are passed on as they are."""

from __future__ import annotations

import pytest

from detent.gateway.forwarded import is_forwarded
from detent.gateway.proxied import ProxyBody, TextStream, read_proxied
from detent.kernel.chat import Usage
from detent.kernel.errors import InvalidInput

TYPE = "multipart/form-data; boundary=b0"


def part(head: bytes, value: bytes, mark: bytes = b"b0") -> bytes:
    return b"--" + mark + b"\r\n" + head + b"\r\n\r\n" + value + b"\r\n"


def field(name: bytes, value: bytes) -> bytes:
    return part(b'Content-Disposition: form-data; name="' + name + b'"', value)


MODEL = field(b"model", b"cheap")
FILE = part(b'content-disposition: form-data; name="file"; filename="a.wav"\r\ncontent-type: audio/wav', b"RIFF\r\n--b")
END = b"--b0--\r\n"


def form(raw: bytes, content_type: str = TYPE) -> ProxyBody:
    return read_proxied(raw, content_type, max_depth=8)


def test_the_model_is_replaced_wherever_it_stands() -> None:
    for raw in (MODEL + FILE + END, FILE + MODEL + END, FILE + MODEL + field(b"n", b"1") + END):
        body = form(raw)
        assert body.model == "cheap"
        assert body.for_model("real", b'"real"') == raw.replace(b"cheap", b"real")


@pytest.mark.parametrize(
    "raw",
    [
        MODEL + field(b"model", b"dear") + END,
        field(b"model", b"dear") + FILE + MODEL + END,
        MODEL + part(b"content-disposition: form-data; name=model", b"dear") + END,
        MODEL + part(b"CONTENT-DISPOSITION : form-data; NAME=model", b"dear") + END,
        MODEL + part(b"content-disposition: form-data; name*=utf-8''model", b"dear") + END,
        MODEL + part(b'content-disposition: form-data; name="x"; name="model"', b"dear") + END,
        MODEL + part(b'content-disposition: form-data; name="mo\\del"', b"dear") + END,
        MODEL + part(b'content-disposition: form-data;\r\n name="model"', b"dear") + END,
        MODEL
        + part(b'content-disposition: form-data; name="x"\r\ncontent-disposition: form-data; name=model', b"d")
        + END,
        MODEL + b"--b0 \r\ncontent-disposition: form-data; name=model\r\n\r\ndear\r\n" + END,
        MODEL + FILE * 300 + field(b"model", b"dear") + END,
        MODEL,
        FILE + END,
        b"preamble" + MODEL + END,
    ],
)
def test_a_form_that_others_may_read_otherwise_is_refused(raw: bytes) -> None:
    with pytest.raises(InvalidInput):
        form(raw)


@pytest.mark.parametrize(
    "kind",
    [
        "multipart/form-data",
        "multipart/form-data; boundary=b0; boundary=b1",
        "multipart/form-data; xboundary=b0; boundary=b1",
        "multipart/form-data; boundary=b0; boundary*=utf-8''b1",
    ],
)
def test_a_boundary_that_others_may_read_otherwise_is_refused(kind: str) -> None:
    with pytest.raises(InvalidInput):
        form(MODEL + END, kind)


def test_a_streamed_text_completion_tells_what_it_took() -> None:
    raw = (
        b'data: {"id":"cmpl-1","model":"real","choices":[{"text":"Hello "}]}\n\n'
        b'data: {"choices":[{"text":"there"},{"text":"!"}]}\r\n\r\ndata: \xff\n\ndata: [DONE]\n\n'
    )
    for size in (1, 7, len(raw)):
        stream = TextStream()
        assert b"".join(stream.feed(raw[at : at + size]) for at in range(0, len(raw), size)) == raw
        assert (stream.id, stream.model, stream.characters, stream.usage) == ("cmpl-1", "real", 12, None)
    stream.feed(b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":4}}\n')
    assert stream.usage == Usage(3, 4)


@pytest.mark.parametrize(
    ("path", "known"),
    [
        ("/v1/files", True),
        ("/v1/files/", True),
        ("/v1/batches/b/cancel", True),
        ("/v1/filesystem", False),
        ("/v1/files/../keys", False),
        ("/v1/files/./x", False),
        ("//v1/files", False),
        ("/v1//files", False),
        ("/x/v1/files", False),
    ],
)
def test_what_is_forwarded(path: str, known: bool) -> None:
    assert is_forwarded(path) is known
