"""OTLP trace requests, protobuf and JSON, to spans and back to their answer."""

from __future__ import annotations

import msgspec

from detent.kernel.telemetry import Batch


class OtlpBatch(msgspec.Struct, frozen=True):
    """What could be read of a request: the spans, and how many were refused and why."""

    batch: Batch
    rejected: int
    reasons: tuple[str, ...]


def read_otlp(body: bytes, content_type: str, *, project: str, content_encoding: str = "") -> OtlpBatch:
    """Read an ExportTraceServiceRequest; a span that is invalid is refused alone.

    Raises:
        InvalidInput: the body as a whole cannot be read.
        TooLarge: it is over the limit, compressed or not.
    """
    raise NotImplementedError(body, content_type, project, content_encoding)


def otlp_response(content_type: str, *, rejected: int = 0, message: str = "") -> bytes:
    """The ExportTraceServiceResponse in the encoding of the request."""
    raise NotImplementedError(content_type, rejected, message)
