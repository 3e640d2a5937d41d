"""Calls to the control plane over HTTP/1.1: one kept connection per thread, time-outs, retries, the kernel's errors.

A call is repeated only when repeating it cannot do harm: it reads, it is idempotent by its method, or it carries an
id of ours. It waits between tries as long as the server asks (`Retry-After`), else twice as long each time.
"""

from __future__ import annotations

import http.client
import os
import random
import ssl
import threading
import time
from collections.abc import Mapping
from typing import Any, Final, NamedTuple
from urllib.parse import quote, urlencode, urlsplit

import msgspec

from detent.kernel.errors import (
    BadSettings,
    CallerError,
    DetentError,
    TimedOut,
    Unavailable,
    UpstreamFailed,
    WorldError,
    every_error,
)
from detent.kernel.secret import Secret

_IDEMPOTENT: Final = frozenset({"GET", "HEAD", "PUT", "DELETE"})
_WORTH_A_TRY: Final = frozenset({429, 502, 503, 504})
_FIRST_WAIT: Final = 0.2
_LONGEST_WAIT: Final = 30.0
_MAX_ANSWER: Final = 256 * 1024 * 1024


class Answer(NamedTuple):
    """What came back."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Transport:
    """Where to call, with which key, and how patiently."""

    def __init__(self, url: str, key: Secret, *, timeout: float, retries: int) -> None:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or "@" in parts.netloc:
            raise BadSettings(
                "The address of Detent is no URL.", hint="Set DETENT_URL, e.g. http://127.0.0.1:7401.", field="url"
            )
        self._secure = parts.scheme == "https"
        self._host = parts.hostname
        self._port = parts.port or (443 if self._secure else 80)
        self._prefix = parts.path.rstrip("/")
        self._key = key
        self._timeout = timeout
        self._retries = retries
        self._kept = threading.local()

    def call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, Any] | None = None,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        repeatable: bool | None = None,
    ) -> Answer:
        """Call, and again where that is safe and of use.

        Raises:
            DetentError: what the server answered, as the kernel's error of its code; `Unavailable` and `TimedOut` when
                it did not answer.
        """
        target = self._prefix + path + _query(query)
        data = body if isinstance(body, bytes) else msgspec.json.encode(body) if body is not None else None
        sent = {"accept": "application/json", "user-agent": "detent-sdk"}
        if data is not None:
            sent["content-type"] = "application/json"
        if self._key:
            sent["authorization"] = f"Bearer {self._key.reveal()}"
        sent.update(headers or {})
        safe = method in _IDEMPOTENT if repeatable is None else repeatable
        tries = 1 + (self._retries if safe else 0)
        for attempt in range(tries):
            try:
                return self._once(method, target, data, sent)
            except DetentError as error:
                if attempt + 1 == tries or error.status not in _WORTH_A_TRY:
                    raise
                wait = _pause(attempt, error.retry_after)
                if wait > _LONGEST_WAIT:
                    raise
                time.sleep(wait)
        raise AssertionError("unreachable")

    def close(self) -> None:
        """Close this thread's connection."""
        kept = getattr(self._kept, "connection", None)
        if kept is not None:
            kept.close()
            self._kept.connection = None

    def _once(self, method: str, target: str, data: bytes | None, headers: Mapping[str, str]) -> Answer:
        connection, fresh = self._connection()
        try:
            try:
                connection.request(method, target, body=data, headers=dict(headers))
                response = connection.getresponse()
            except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError):
                # A kept connection that the server closed meanwhile: nothing was answered on it, so ask on a new one.
                if fresh or (method not in _IDEMPOTENT):
                    raise
                self.close()
                connection, _fresh = self._connection()
                connection.request(method, target, body=data, headers=dict(headers))
                response = connection.getresponse()
            body = response.read(_MAX_ANSWER + 1)
        except TimeoutError:
            self.close()
            raise TimedOut(
                f"Detent at {self._shown()} did not answer within {self._timeout:g} s.", hint="Try again later."
            ) from None
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise Unavailable(
                f"Detent at {self._shown()} cannot be reached: {str(error) or type(error).__name__}.",
                hint="Start it with `detent up`, or correct DETENT_URL.",
            ) from None
        if len(body) > _MAX_ANSWER:
            self.close()
            raise UpstreamFailed("The answer is too large.", hint="Ask for less at a time.")
        answer = Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, body)
        if answer.status >= 300:
            raise error_of(answer)
        return answer

    def _connection(self) -> tuple[http.client.HTTPConnection, bool]:
        """This thread's connection and whether it is new; a forked child makes its own."""
        kept: http.client.HTTPConnection | None = getattr(self._kept, "connection", None)
        if kept is not None and getattr(self._kept, "pid", 0) == os.getpid():
            return kept, False
        if self._secure:
            kept = http.client.HTTPSConnection(
                self._host, self._port, timeout=self._timeout, context=ssl.create_default_context()
            )
        else:
            kept = http.client.HTTPConnection(self._host, self._port, timeout=self._timeout)
        self._kept.connection, self._kept.pid = kept, os.getpid()
        return kept, True

    def _shown(self) -> str:
        return f"{'https' if self._secure else 'http'}://{self._host}:{self._port}"


class _Problem(msgspec.Struct):
    code: str = ""
    message: str = ""
    hint: str = ""
    field: str | None = None


class _Envelope(msgspec.Struct):
    error: _Problem


def error_of(answer: Answer) -> DetentError:
    """The kernel's error for an answer that is none."""
    try:
        told = msgspec.json.decode(answer.body, type=_Envelope).error
    except msgspec.MsgspecError:
        told = _Problem(message=f"The server answered {answer.status}.")
    known = {kind.code: kind for kind in every_error()}
    kind = known.get(told.code) or _family(answer.status)
    return kind(told.message, hint=told.hint, field=told.field, retry_after=_seconds(answer.headers))


def _family(status: int) -> type[DetentError]:
    exact = next((kind for kind in every_error() if kind.status == status and kind.__subclasses__() == []), None)
    return exact or (CallerError if status < 500 else WorldError)


def _seconds(headers: Mapping[str, str]) -> float | None:
    try:
        return max(0.0, float(headers.get("retry-after", "")))
    except ValueError:
        return None


def _pause(attempt: int, asked: float | None) -> float:
    if asked is not None:
        return asked
    longest: float = min(_FIRST_WAIT * 2.0**attempt, _LONGEST_WAIT)
    return longest * (0.5 + random.random() / 2)  # noqa: S311  # spreads retries; guards nothing


def _query(query: Mapping[str, Any] | None) -> str:
    kept: list[tuple[str, str]] = []
    for name, value in (query or {}).items():
        for one in value if isinstance(value, list | tuple) else [value]:
            if one is not None and one != "":
                kept.append((name, str(one).lower() if isinstance(one, bool) else str(one)))
    return "?" + urlencode(kept) if kept else ""


def segment(text: str) -> str:
    """A value as one path segment."""
    return quote(text, safe="")
