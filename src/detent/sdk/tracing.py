"""`@detent.trace`: what an application does, as spans.

    @detent.trace
    def answer(question): ...

    @detent.trace(name="look up", operation="execute_tool", content=False)
    async def look_up(order): ...

    with detent.trace("rerank") as span:
        span.set(candidates=12)

Spans nest by context variables, so threads started with a copied context, tasks and generators keep their parent. What
goes wrong in here is counted and never reaches the application.
"""

from __future__ import annotations

import atexit
import functools
import inspect
import os
import threading
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from contextvars import ContextVar
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, TypeVar, overload

from detent.sdk.span import ActiveSpan, Nothing

if TYPE_CHECKING:
    from detent.sdk.exporter import Exporter

F = TypeVar("F", bound=Callable[..., Any])

_CURRENT: ContextVar[ActiveSpan | None] = ContextVar("detent_span", default=None)
_MOST_ITEMS: Final = 1000


_NOTHING: Final = Nothing()


# Setting up


class _Setup:
    """The one exporter of this process; made when the first span begins."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.decided = False
        self.exporter: Exporter | None = None
        self.content = True


_SETUP: Final = _Setup()


def configure(
    *, url: str | None = None, key: str | None = None, content: bool | None = None, service: str | None = None
) -> None:
    """Say where spans go; what is not given comes from `DETENT_URL`, `DETENT_KEY`, `DETENT_TRACE_CONTENT`.

    Args:
        url: the control plane, e.g. `http://127.0.0.1:7401`.
        key: a virtual key with `traces:write`.
        content: whether arguments and results are recorded.
        service: the application's name.
    """
    shutdown()
    with _SETUP.lock:
        _set_up(url, key, content, service)


def _set_up(url: str | None, key: str | None, content: bool | None, service: str | None) -> None:  # noqa: FBT001
    address = os.environ.get("DETENT_URL", "") if url is None else url
    secret = os.environ.get("DETENT_KEY", "") if key is None else key
    if content is None:
        content = os.environ.get("DETENT_TRACE_CONTENT", "on").lower() not in {"0", "off", "no", "false"}
    _SETUP.content = content
    _SETUP.exporter = None
    if address and secret:
        from detent.sdk.exporter import open_exporter

        _SETUP.exporter = open_exporter(address, secret, service=service or os.environ.get("OTEL_SERVICE_NAME", ""))
    _SETUP.decided = True


def _exporter() -> Exporter | None:
    if not _SETUP.decided:
        with _SETUP.lock:
            if not _SETUP.decided:
                _set_up(None, None, None, None)
    return _SETUP.exporter


def flush(timeout: float = 5.0) -> bool:
    """Send what waits; whether all of it was sent in time."""
    return _SETUP.exporter.flush(timeout) if _SETUP.exporter is not None else True


def shutdown(timeout: float = 5.0) -> None:
    """Send what waits and stop; done by itself when the program ends."""
    with _SETUP.lock:
        exporter, _SETUP.exporter, _SETUP.decided = _SETUP.exporter, None, False
    if exporter is not None:
        exporter.close(timeout)


atexit.register(shutdown)


def _after_fork() -> None:
    """A child has none of its parent's threads, and must not send its parent's spans."""
    _SETUP.lock = threading.Lock()
    _SETUP.decided = False
    _SETUP.exporter = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


# Spans


def current_span() -> ActiveSpan:
    """The span around; one that does nothing when there is none."""
    return _CURRENT.get() or _NOTHING


def propagation_headers() -> dict[str, str]:
    """Headers that make a call to the gateway (or anything that speaks W3C Trace Context) part of this trace."""
    span = _CURRENT.get()
    return {"traceparent": span.traceparent} if span is not None else {}


class _Tracing:
    """What `trace(...)` gives: a decorator and a context manager in one."""

    __slots__ = ("_attributes", "_content", "_name", "_operation", "_parent")

    def __init__(
        self, name: str, operation: str, content: bool | None, attributes: Mapping[str, Any] | None, parent: str  # noqa: FBT001
    ) -> None:  # fmt: skip
        self._name = name
        self._operation = operation
        self._content = content
        self._attributes = attributes
        self._parent = parent

    def begin(self, name: str) -> ActiveSpan | None:
        """A new span inside the current one, not entered yet; None when tracing is off."""
        exporter = _exporter()
        if exporter is None:
            return None
        content = _SETUP.content if self._content is None else self._content and _SETUP.content
        span = ActiveSpan(
            self._name or name,
            operation=self._operation,
            content=content,
            parent=_CURRENT.get(),
            remote=self._parent,
        )
        if self._attributes:
            span.attributes.update(self._attributes)
        return span

    def __enter__(self) -> ActiveSpan:
        span = self.begin("block")
        if span is None:
            return _NOTHING
        _CURRENT.set(span)
        return span

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        span = _CURRENT.get()
        if span is not None:
            _CURRENT.set(span.parent)
            _end(span, error)

    async def __aenter__(self) -> ActiveSpan:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, trace)

    def __call__(self, function: F) -> F:
        """Trace every call of a function."""
        return _traced(self, function)


@overload
def trace(target: F, /) -> F: ...


@overload
def trace(
    target: str = "",
    /,
    *,
    name: str = "",
    operation: str = "",
    content: bool | None = None,
    attributes: Mapping[str, Any] | None = None,
    parent: str = "",
) -> _Tracing: ...


def trace(
    target: Any = "",
    /,
    *,
    name: str = "",
    operation: str = "",
    content: bool | None = None,
    attributes: Mapping[str, Any] | None = None,
    parent: str = "",
) -> Any:
    """Trace a function (`@trace`, `@trace(...)`) or a block (`with trace("name")`).

    Works on functions, coroutines, generators and asynchronous generators; a generator's span lasts until it is used up
    or closed.

    Args:
        target: the function, or the span's name.
        name: of the span; else the function's.
        operation: what it is in the words of OpenTelemetry's GenAI conventions, e.g. `execute_tool`, `invoke_agent`.
        content: False records neither arguments nor results.
        attributes: set on every span.
        parent: a `traceparent` header to continue where there is no span around.
    """
    if callable(target):
        return _Tracing("", "", None, None, "")(target)
    return _Tracing(name or target, operation, content, attributes, parent)


def _end(span: ActiveSpan, error: BaseException | None) -> None:
    """Finish a span; nothing that goes wrong with it may reach the application."""
    exporter = _SETUP.exporter
    if exporter is None:
        return
    try:
        if error is not None and not isinstance(error, GeneratorExit):
            span.fail(error)
        span.finish()
        exporter.put(span)
    except Exception:  # noqa: BLE001  # the application's call must not fail because of its trace
        exporter.lost += 1


# Functions


def _traced(tracing: _Tracing, function: F) -> F:
    name = getattr(function, "__qualname__", type(function).__name__).replace("<locals>.", "")
    arguments = _arguments_of(function)
    wrapped: Any
    if inspect.isasyncgenfunction(function):
        wrapped = _async_generator(tracing, function, name, arguments)
    elif inspect.isgeneratorfunction(function):
        wrapped = _generator(tracing, function, name, arguments)
    elif inspect.iscoroutinefunction(function):
        wrapped = _coroutine(tracing, function, name, arguments)
    else:
        wrapped = _function(tracing, function, name, arguments)
    return wrapped  # type: ignore[no-any-return]


Arguments = Callable[[tuple[Any, ...], dict[str, Any]], Any]


def _arguments_of(function: Callable[..., Any]) -> Arguments:
    """Makes a call's arguments a mapping by name, without `self`."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return lambda args, kwargs: {"args": args, **kwargs}
    skipped = {name for index, name in enumerate(signature.parameters) if index == 0 and name in {"self", "cls"}}

    def bind(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        try:
            bound = signature.bind(*args, **kwargs).arguments
        except TypeError:
            return {"args": args, **kwargs}
        return {name: value for name, value in bound.items() if name not in skipped}

    return bind


def _function(tracing: _Tracing, function: Any, name: str, arguments: Arguments) -> Any:
    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        span = tracing.begin(name)
        if span is None:
            return function(*args, **kwargs)
        span.record(input=arguments(args, kwargs) if span.content else None)
        _CURRENT.set(span)
        error: BaseException | None = None
        try:
            result = function(*args, **kwargs)
            span.record(output=result)
        except BaseException as raised:
            error = raised
            raise
        else:
            return result
        finally:
            _CURRENT.set(span.parent)
            _end(span, error)

    return call


def _coroutine(tracing: _Tracing, function: Any, name: str, arguments: Arguments) -> Any:
    @functools.wraps(function)
    async def call(*args: Any, **kwargs: Any) -> Any:
        span = tracing.begin(name)
        if span is None:
            return await function(*args, **kwargs)
        span.record(input=arguments(args, kwargs) if span.content else None)
        _CURRENT.set(span)
        error: BaseException | None = None
        try:
            result = await function(*args, **kwargs)
            span.record(output=result)
        except BaseException as raised:
            error = raised
            raise
        else:
            return result
        finally:
            _CURRENT.set(span.parent)
            _end(span, error)

    return call


class _Steps:
    """The steps of a generator: the span is current inside each, and what is current outside stays untouched."""

    def __init__(self, span: ActiveSpan) -> None:
        self.span = span
        self.items: list[Any] = []
        self._inside: ActiveSpan | None = span
        self._outside: ActiveSpan | None = None

    def __enter__(self) -> None:
        self._outside = _CURRENT.get()
        _CURRENT.set(self._inside)

    def __exit__(self, *_raised: object) -> None:
        self._inside = _CURRENT.get()
        _CURRENT.set(self._outside)

    def keep(self, item: Any) -> None:
        """Remember what came out, up to a bound."""
        if self.span.content and len(self.items) < _MOST_ITEMS:
            self.items.append(item)

    def end(self, error: BaseException | None) -> None:
        """Finish with the items as output."""
        self.span.record(output=_joined(self.items))
        _end(self.span, error)


def _joined(items: list[Any]) -> Any:
    """Streamed text is read as one text."""
    return "".join(items) if items and all(isinstance(item, str) for item in items) else items


def _generator(tracing: _Tracing, function: Any, name: str, arguments: Arguments) -> Any:
    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        span = tracing.begin(name)
        if span is None:
            return (yield from function(*args, **kwargs))
        span.record(input=arguments(args, kwargs) if span.content else None)
        return (yield from _stepped(_Steps(span), function(*args, **kwargs)))

    return call


def _stepped(steps: _Steps, inner: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
    error: BaseException | None = None
    advance: Callable[[], Any] = functools.partial(next, inner)
    try:
        while True:
            try:
                with steps:
                    item = advance()
            except StopIteration as stop:
                return stop.value
            steps.keep(item)
            try:
                sent = yield item
                advance = functools.partial(inner.send, sent)
            except GeneratorExit:
                with steps:
                    inner.close()
                raise
            except BaseException as thrown:  # noqa: BLE001  # it belongs to the generator inside, which may answer it
                advance = functools.partial(inner.throw, thrown)
    except BaseException as raised:
        error = raised
        raise
    finally:
        steps.end(error)


def _async_generator(tracing: _Tracing, function: Any, name: str, arguments: Arguments) -> Any:
    @functools.wraps(function)
    async def call(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        span = tracing.begin(name)
        inner = function(*args, **kwargs)
        steps = None
        if span is not None:
            span.record(input=arguments(args, kwargs) if span.content else None)
            steps = _Steps(span)
        error: BaseException | None = None
        advance: Any = functools.partial(inner.asend, None)
        try:
            while True:
                try:
                    item = await _step(steps, advance)
                except StopAsyncIteration:
                    return
                if steps is not None:
                    steps.keep(item)
                try:
                    sent = yield item
                    advance = functools.partial(inner.asend, sent)
                except GeneratorExit:
                    await _step(steps, inner.aclose)
                    raise
                except BaseException as thrown:  # noqa: BLE001  # it belongs to the generator inside
                    advance = functools.partial(inner.athrow, thrown)
        except BaseException as raised:
            error = raised
            raise
        finally:
            if steps is not None:
                steps.end(error)

    return call


async def _step(steps: _Steps | None, advance: Any) -> Any:
    if steps is None:
        return await advance()
    with steps:
        return await advance()
