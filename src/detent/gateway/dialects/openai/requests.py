"""Requests of the OpenAI chat completions dialect, read and written.

Source: https://platform.openai.com/docs/api-reference/chat/create
"""

from __future__ import annotations

import base64
import re
from typing import Any, Final, cast, get_args

from detent.gateway.dialects.fields import Fields, encoded, wrong
from detent.gateway.dialects.openai.parts import (
    read_cache,
    read_call,
    read_content,
    read_reasoning,
    write_cache,
    write_call,
    write_part,
    write_reasoning,
)
from detent.gateway.dialects.port import Outgoing
from detent.gateway.dialects.quirks import Quirks, effort_of, nearest
from detent.kernel.chat import (
    ChatRequest,
    Effort,
    FilePart,
    ImagePart,
    Message,
    Part,
    Reasoning,
    ReasoningPart,
    RefusalPart,
    ResponseFormat,
    Role,
    TextPart,
    Tool,
    ToolCallPart,
    ToolChoice,
    ToolResultPart,
)
from detent.kernel.errors import InvalidInput

NAME: Final = "openai"
_ROLES: Final[frozenset[str]] = frozenset(get_args(Role))
_EFFORTS: Final[frozenset[str]] = frozenset(get_args(Effort))
_THINKING_MODEL: Final = re.compile(r"(?:^|/)(?:o\d|gpt-(?:[5-9]|\d\d)|codex)")
_MAX_STOPS: Final = 4
_SHARED_EXTRA: Final = frozenset(
    {
        "logit_bias",
        "logprobs",
        "prediction",
        "prompt_cache_key",
        "prompt_cache_retention",
        "safety_identifier",
        "store",
        "top_logprobs",
        "verbosity",
        "web_search_options",
    }
)
"""Fields that other dialects of the same maker have by the same name and meaning."""


# Reading


def read_request(value: object) -> ChatRequest:
    """A whole request from its JSON values, which are used up.

    Raises:
        InvalidInput: a field has the wrong form; names it.
    """
    fields = Fields(value)
    model = fields.needed("model")
    messages = _read_messages(fields.items("messages"))
    tools, others = _read_tools(fields)
    choice, raw_choice = _read_choice(fields)
    response_format, raw_format = _read_format(fields)
    effort = fields.value("reasoning_effort")
    reasoning = _read_reasoning_wish(fields, effort)
    stop = fields.value("stop")
    if isinstance(stop, str):
        stop = [stop]
    elif stop is not None and not (isinstance(stop, list) and all(isinstance(item, str) for item in stop)):
        raise wrong("stop", "text or a list of texts", stop)
    old_limit = fields.integer("max_tokens")
    limit = fields.integer("max_completion_tokens")
    fields.value("stream_options")
    return ChatRequest(
        model=model,
        messages=messages,
        tools=tools,
        tool_choice=choice,
        parallel_tool_calls=fields.flag("parallel_tool_calls"),
        response_format=response_format,
        reasoning=reasoning,
        max_tokens=limit if limit is not None else old_limit,
        temperature=fields.number("temperature"),
        top_p=fields.number("top_p"),
        top_k=fields.integer("top_k"),
        presence_penalty=fields.number("presence_penalty"),
        frequency_penalty=fields.number("frequency_penalty"),
        stop=tuple(stop or ()),
        seed=fields.integer("seed"),
        n=fields.integer("n"),
        stream=bool(fields.flag("stream")),
        user=fields.text("user"),
        metadata=_read_metadata(fields),
        service_tier=fields.text("service_tier"),
        extra={**fields.rest(), **others, **raw_choice, **raw_format},
        dialect=NAME,
    )


def _read_metadata(fields: Fields) -> dict[str, str]:
    found = fields.object("metadata") or {}
    for name, value in found.items():
        if not isinstance(value, str):
            raise wrong(f"metadata.{name[:64]}", "text", value)
    return found


def _read_reasoning_wish(fields: Fields, effort: object) -> Reasoning | None:
    """`reasoning_effort`, or OpenRouter's `reasoning` object."""
    budget: int | None = None
    wish = fields.value("reasoning")
    if isinstance(wish, dict):
        effort = wish.get("effort", effort)
        found = wish.get("max_tokens")
        budget = found if isinstance(found, int) and not isinstance(found, bool) else None
        if wish.get("enabled") is False:
            effort = "none"
    if effort is None and budget is None:
        return None if wish is None else Reasoning()
    if effort is not None and not (isinstance(effort, str) and effort in _EFFORTS):
        raise InvalidInput(
            "The field 'reasoning_effort' cannot be used: there is no such effort.",
            hint="Use none, minimal, low, medium, high, xhigh or max.",
            field="reasoning_effort",
        )
    return Reasoning(effort=cast("Effort", effort or ""), budget_tokens=budget)


def _read_messages(items: list[Any]) -> tuple[Message, ...]:
    if not items:
        raise InvalidInput("The field 'messages' must hold a message.", hint="Send at least one.", field="messages")
    messages: list[Message] = []
    legacy: dict[str, str] = {}  # function's name -> id of its last call
    for number, item in enumerate(items):
        at = f"messages[{number}]"
        fields = Fields(item, at)
        role = fields.needed("role")
        name = fields.text("name")
        if role == "function":
            result = ToolResultPart(legacy.get(name, f"call_{name}"), _texts(fields.value("content"), at), name)
            messages.append(Message("tool", (result,), "", fields.rest()))
        elif role == "tool":
            cache = read_cache(fields)
            call = fields.needed("tool_call_id")
            content = _texts(fields.value("content"), fields.path("content"))
            messages.append(Message("tool", (ToolResultPart(call, content, name, cache=cache),), "", fields.rest()))
        elif role == "assistant":
            messages.append(_read_assistant(fields, name, number, legacy))
        elif role in _ROLES:
            parts = read_content(fields.value("content"), fields.path("content"))
            cache = read_cache(fields)
            if cache and parts and isinstance(parts[-1], TextPart):
                parts = (*parts[:-1], TextPart(parts[-1].text, cache, parts[-1].extra))
            messages.append(Message(cast("Role", role), parts, name, fields.rest()))
        else:
            raise InvalidInput(
                f"The field '{at}.role' cannot be used: there is no role '{role[:40]}'.",
                hint="Use system, developer, user, assistant or tool.",
                field=f"{at}.role",
            )
    return tuple(messages)


def _texts(value: object, at: str) -> tuple[TextPart | ImagePart | FilePart, ...]:
    parts = read_content(value, at)
    for part in parts:
        if not isinstance(part, TextPart | ImagePart | FilePart):
            raise InvalidInput(
                f"The field '{at}' cannot be used: a tool gives back text, images or files.",
                hint="Correct the request.",
                field=at,
            )
    return cast("tuple[TextPart | ImagePart | FilePart, ...]", parts)


def _read_assistant(fields: Fields, name: str, number: int, legacy: dict[str, str]) -> Message:
    parts: list[Part] = read_reasoning(fields)
    parts.extend(read_content(fields.value("content"), fields.path("content")))
    refusal = fields.text("refusal")
    if refusal:
        parts.append(RefusalPart(refusal))
    others: list[Any] = []
    for index, item in enumerate(fields.items("tool_calls")):
        call = read_call(item, f"{fields.path('tool_calls')}[{index}]", f"call_{number}_{index}")
        if call is None:
            others.append(item)
        else:
            parts.append(call)
    old = fields.within("function_call")
    if old is not None:
        called = old.needed("name")
        legacy[called] = f"call_{number}"
        parts.append(ToolCallPart(legacy[called], called, old.text("arguments")))
    extra = fields.rest()
    if others:
        extra["tool_calls"] = others
    return Message("assistant", tuple(parts), name, extra)


def _read_tools(fields: Fields) -> tuple[tuple[Tool, ...], dict[str, Any]]:
    """Functions, and what else stands among the tools (custom ones, a provider's own)."""
    tools: list[Tool] = []
    others: list[Any] = []
    for number, item in enumerate(fields.items("tools")):
        at = f"tools[{number}]"
        outer = Fields(item, at)
        if isinstance(item, dict) and item.get("type") not in ("function", None):
            others.append(item)
            continue
        outer.value("type")
        inner = outer.within("function")
        if inner is None:
            raise wrong(f"{at}.function", "an object", None)
        cache = read_cache(outer) or read_cache(inner)
        tools.append(_read_function(inner, cache, outer.rest()))
    for number, item in enumerate(fields.items("functions")):
        tools.append(_read_function(Fields(item, f"functions[{number}]"), "", {}))
    return tuple(tools), {"tools": others} if others else {}


def _read_function(inner: Fields, cache: Any, extra: dict[str, Any]) -> Tool:
    return Tool(
        inner.needed("name"),
        inner.text("description"),
        inner.object("parameters") or {},
        inner.flag("strict"),
        cache,
        {**inner.rest(), **extra},
    )


def _read_choice(fields: Fields) -> tuple[ToolChoice | None, dict[str, Any]]:
    value = fields.value("tool_choice")
    if value is None:
        old = fields.value("function_call")
        value = {"type": "function", "function": old} if isinstance(old, dict) else old
    match value:
        case None:
            return None, {}
        case "auto" | "none":
            return ToolChoice(cast("Any", value)), {}
        case "required" | "any":
            return ToolChoice("required"), {}
        case {"type": "function", "function": {"name": str(name)}}:
            return ToolChoice("tool", name), {}
        case {"type": "allowed_tools", "allowed_tools": {"mode": str(mode)}}:
            return ToolChoice("required" if mode == "required" else "auto"), {"tool_choice": value}
        case {"type": str()}:
            return None, {"tool_choice": value}
    raise wrong("tool_choice", "auto, none, required or a function's name", value)


def _read_format(fields: Fields) -> tuple[ResponseFormat | None, dict[str, Any]]:
    raw = fields.value("response_format")
    if raw is None:
        return None, {}
    found = Fields(dict(raw) if isinstance(raw, dict) else raw, "response_format")
    kind = found.needed("type")
    if kind in {"text", "json_object"}:
        return ResponseFormat(cast("Any", kind)), {}
    if kind != "json_schema":
        return None, {"response_format": raw}
    inner = found.within("json_schema")
    if inner is None:
        raise wrong("response_format.json_schema", "an object", None)
    return (
        ResponseFormat(
            "json_schema",
            inner.text("name"),
            inner.text("description"),
            inner.object("schema") or {},
            inner.flag("strict"),
        ),
        {},
    )


# Writing


def write_request(request: ChatRequest, *, model: str, quirks: Quirks) -> Outgoing:
    """A request for one of the provider's models.

    Raises:
        InvalidInput: it holds a file by URL.
    """
    writing = _Writing(request, model, quirks)
    body = writing.body()
    return Outgoing(quirks.path_for(model), encoded(body), (), tuple(sorted(writing.dropped)))


def thinks(model: str) -> bool:
    """Whether a model is one of OpenAI's that reason: these take an effort, and no sampling parameters."""
    return _THINKING_MODEL.search(model) is not None


class _Writing:
    """One request on its way to JSON; `dropped` gathers what could not be said."""

    def __init__(self, request: ChatRequest, model: str, quirks: Quirks) -> None:
        self._request = request
        self._model = model
        self._quirks = quirks
        self._own = request.dialect == NAME
        self.dropped: set[str] = set()

    def body(self) -> dict[str, Any]:
        request, quirks = self._request, self._quirks
        extra = self._extra()
        body: dict[str, Any] = {"model": self._model, "messages": self._messages(), **extra}
        if request.tools:
            body["tools"] = [self._tool(tool) for tool in request.tools] + extra.get("tools", [])
        if request.tool_choice is not None and "tool_choice" not in extra:
            body["tool_choice"] = _write_choice(request.tool_choice)
        if request.parallel_tool_calls is not None and (request.tools or self._own):
            self._say(body, "parallel_tool_calls", request.parallel_tool_calls, quirks.parallel_tool_calls)
        self._format(body)
        self._reasoning(body)
        self._sampling(body)
        if request.max_tokens is not None:
            body[quirks.max_tokens_field] = request.max_tokens
        if request.stream:
            body["stream"] = True
            if quirks.stream_usage:
                body["stream_options"] = {"include_usage": True}
        if request.user:
            self._say(body, "user", request.user)
        if request.metadata:
            self._say(body, "metadata", request.metadata)
        if request.service_tier:
            tier = "default" if request.service_tier == "standard_only" else request.service_tier
            self._say(body, "service_tier", tier)
        return body

    def _say(self, body: dict[str, Any], name: str, value: object, known: bool = True, field: str = "") -> None:  # noqa: FBT001
        """Write a field that the provider understands; else name it as dropped."""
        if known and (field or name) not in self._quirks.refused:
            body[field or name] = value
        else:
            self.dropped.add(name)

    def _extra(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, value in self._request.extra.items():
            if (self._own or name in _SHARED_EXTRA) and name not in self._quirks.refused:
                found[name] = value
            else:
                self.dropped.add(name)
        return found

    def _sampling(self, body: dict[str, Any]) -> None:
        request, quirks = self._request, self._quirks
        free = self._own or not (quirks.own_models and thinks(self._model))
        for name in ("temperature", "top_p", "presence_penalty", "frequency_penalty"):
            value = getattr(request, name)
            if value is not None:
                self._say(body, name, value, free)
        if request.top_k is not None:
            self._say(body, "top_k", request.top_k, quirks.top_k)
        if request.seed is not None:
            self._say(body, "seed", request.seed, bool(quirks.seed_field), quirks.seed_field)
        if request.n is not None:
            self._say(body, "n", request.n)
        if request.stop:
            self._say(body, "stop", list(request.stop[: None if self._own else _MAX_STOPS]), free)
            if len(request.stop) > _MAX_STOPS and not self._own:
                self.dropped.add("stop")

    def _reasoning(self, body: dict[str, Any]) -> None:
        wish, quirks = self._request.reasoning, self._quirks
        if wish is None or not (wish.effort or wish.budget_tokens is not None):
            return
        effort = wish.effort or effort_of(wish.budget_tokens or 0)
        if quirks.reasoning == "object":
            if wish.budget_tokens is not None and not wish.effort:
                body["reasoning"] = {"max_tokens": wish.budget_tokens}
            else:
                body["reasoning"] = {"effort": effort} if effort != "none" else {"enabled": False}
        elif quirks.reasoning == "effort" and (self._own or not quirks.own_models or thinks(self._model)):
            if effort == "none" and not self._own:
                self.dropped.add("reasoning")  # older models refuse it, newer ones do not think unasked
            else:
                body["reasoning_effort"] = (
                    effort if self._own and quirks.own_models else nearest(effort, quirks.efforts)
                )
        else:
            self.dropped.add("reasoning")

    def _format(self, body: dict[str, Any]) -> None:
        wish = self._request.response_format
        if wish is None or "response_format" in body:
            return
        if wish.kind == "json_schema" and "json_schema" in self._quirks.formats:
            inner: dict[str, Any] = {"name": wish.name or "answer", "schema": wish.schema}
            if wish.description:
                inner["description"] = wish.description
            if wish.strict is not None:
                inner["strict"] = wish.strict
            body["response_format"] = {"type": "json_schema", "json_schema": inner}
        elif wish.kind == "text":
            body["response_format"] = {"type": "text"}
        else:
            if "json_object" in self._quirks.formats:
                body["response_format"] = {"type": "json_object"}
            if wish.kind == "json_schema" or "json_object" not in self._quirks.formats:
                self.dropped.add("response_format")
                schema = f" It must follow this JSON Schema: {encoded(wish.schema).decode()}" if wish.schema else ""
                hint = {"role": "system", "content": f"Answer with one JSON object and nothing else.{schema}"}
                body["messages"] = [hint, *body["messages"]]

    def _tool(self, tool: Tool) -> dict[str, Any]:
        inner: dict[str, Any] = {"name": tool.name}
        if tool.description:
            inner["description"] = tool.description
        if tool.parameters or not self._own:
            inner["parameters"] = tool.parameters or {"type": "object", "properties": {}}
        if tool.strict is not None:
            self._say(inner, "strict", tool.strict, self._quirks.strict_tools)
        if self._own:
            inner.update(tool.extra)
        found: dict[str, Any] = {"type": "function", "function": inner}
        self._mark(found, tool.cache)
        return found

    def _mark(self, found: dict[str, Any], cache: Any) -> None:
        if cache and self._quirks.cache_marks:
            found["cache_control"] = write_cache(cache)
        elif cache:
            self.dropped.add("cache")

    # Messages

    def _messages(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        seen: list[dict[str, Any]] = []  # what tools gave back beside text; a user's message says it after all results
        for number, message in enumerate(self._request.messages):
            at = f"messages[{number}]"
            results = [part for part in message.parts if isinstance(part, ToolResultPart)]
            rest = tuple(part for part in message.parts if not isinstance(part, ToolResultPart))
            for result in results:
                found.append(self._result(result, message, at, seen))
            if results and not rest:
                continue
            if seen:
                found.append({"role": "user", "content": seen})
                seen = []
            if message.role == "assistant":
                found.append(self._assistant(message, rest, at))
            else:
                found.append(self._plain(message, rest, at))
        if seen:
            found.append({"role": "user", "content": seen})
        return found

    def _plain(self, message: Message, parts: tuple[Part, ...], at: str) -> dict[str, Any]:
        role = message.role
        if role == "developer" and not self._quirks.developer:
            role = "system"
        whole = self._quirks.string_content and role != "user"
        found: dict[str, Any] = {"role": role, "content": self._content(parts, at, whole=whole, between="\n\n")}
        if message.name:
            found["name"] = message.name
        return {**message.extra, **found} if self._own else found

    def _content(self, parts: tuple[Part, ...], at: str, *, whole: bool, between: str) -> str | list[dict[str, Any]]:
        written: list[dict[str, Any]] = []
        for number, part in enumerate(parts):
            if not self._own and isinstance(part, TextPart) and not part.text:
                if part.extra:
                    self.dropped.add(f"messages.{part.extra.get('type', 'part')}")
                continue
            plain = part if self._own else _plain_text(part)
            one = write_part(plain, f"{at}.content[{number}]", marks=self._quirks.cache_marks, extras=self._own)
            if one is not None:
                written.append(one)
                if getattr(part, "cache", "") and not self._quirks.cache_marks:
                    self.dropped.add("cache")
        only_text = all(one["type"] == "text" for one in written)
        if whole and only_text:
            return between.join(one["text"] for one in written)
        if not written:
            return ""
        if len(written) == 1 and written[0].keys() == {"type", "text"}:
            return str(written[0]["text"])
        return written

    def _assistant(self, message: Message, parts: tuple[Part, ...], at: str) -> dict[str, Any]:
        found: dict[str, Any] = {"role": "assistant"}
        thoughts = [part for part in parts if isinstance(part, ReasoningPart)]
        refusals = [part for part in parts if isinstance(part, RefusalPart)]
        calls = [part for part in parts if isinstance(part, ToolCallPart)]
        said = tuple(part for part in parts if not isinstance(part, ReasoningPart | RefusalPart | ToolCallPart))
        content = self._content(said, at, whole=self._quirks.string_content, between="")
        found["content"] = content if content or not (calls or refusals) else None
        if refusals:
            found["refusal"] = "".join(part.text for part in refusals)
        if thoughts:
            found.update(write_reasoning(thoughts, self._quirks.reasoning_field))
            if not self._quirks.reasoning_field:
                self.dropped.add("messages.reasoning")
        if calls:
            found["tool_calls"] = []
            for part in calls:
                call = write_call(part)
                self._mark(call, part.cache)
                found["tool_calls"].append(call)
        if message.name:
            found["name"] = message.name
        if not self._own:
            return found
        custom = message.extra.get("tool_calls")
        found = {**message.extra, **found}
        if custom:
            found["tool_calls"] = [*found["tool_calls"], *custom] if calls else custom
        return found

    def _result(self, result: ToolResultPart, message: Message, at: str, seen: list[dict[str, Any]]) -> dict[str, Any]:
        texts: list[Part] = []
        for number, part in enumerate(result.content):
            plain = part if self._own else _plain_text(part)
            if isinstance(plain, TextPart):
                texts.append(plain)
                continue
            one = write_part(plain, f"{at}.content[{number}]", marks=False, extras=False)
            if one is not None:
                seen.append({"type": "text", "text": f"From the tool call {result.id}:"})
                seen.append(one)
        content = self._content(tuple(texts), at, whole=self._quirks.string_content, between="\n")
        if not content and len(texts) < len(result.content):
            content = "The result follows as an image or file."
        if result.is_error:
            self.dropped.add("messages.is_error")
        found: dict[str, Any] = {"role": "tool", "tool_call_id": result.id, "content": content}
        if result.name and self._own:
            found["name"] = result.name
        self._mark(found, result.cache)
        return {**message.extra, **found} if self._own else found


def _plain_text(part: Part) -> Part:
    """A document that is text is sent as such: few models of this dialect take files."""
    if isinstance(part, FilePart) and part.data and part.media_type.startswith("text/"):
        try:
            text = base64.b64decode(part.data, validate=True).decode()
        except ValueError:
            return part
        return TextPart(f"{part.name}:\n{text}" if part.name else text, part.cache)
    return part


def _write_choice(choice: ToolChoice) -> object:
    if choice.mode == "tool":
        return {"type": "function", "function": {"name": choice.tool}}
    return choice.mode
