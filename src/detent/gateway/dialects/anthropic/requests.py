"""Requests of Anthropic's messages dialect, read and written.

Source: https://platform.claude.com/docs/en/api/messages
"""

from __future__ import annotations

import re
from typing import Any, Final, NamedTuple, cast, get_args

from detent.gateway.dialects.anthropic.blocks import (
    NAME,
    is_block,
    read_blocks,
    read_cache,
    write_block,
    write_cache,
)
from detent.gateway.dialects.anthropic.schemas import enforceable
from detent.gateway.dialects.fields import Fields, encoded, wrong
from detent.gateway.dialects.marks import unmarked
from detent.gateway.dialects.port import Outgoing
from detent.gateway.dialects.quirks import Quirks, budget_of, effort_of, nearest
from detent.kernel.chat import (
    ChatRequest,
    Effort,
    Message,
    Part,
    Reasoning,
    ReasoningPart,
    ResponseFormat,
    TextPart,
    Tool,
    ToolCallPart,
    ToolChoice,
    ToolResultPart,
)
from detent.kernel.errors import InvalidInput

VERSION: Final = "2023-06-01"
"""Of the API, for translated requests: it still takes sampling parameters, and all who copy the API know it."""

JSON_TOOL: Final = "detent_json_answer"
"""A tool that a model without structured outputs is made to call; its input is the answer."""

_EFFORTS: Final[frozenset[str]] = frozenset(get_args(Effort))
_GENERATION: Final = re.compile(r"claude-(?:[a-z]+-)?(\d{1,2})(?:[.-](\d{1,2}))?(?!\d)")
_MIN_BUDGET: Final = 1024


class Ways(NamedTuple):
    """What a model takes.

    Attributes:
        thinking: whether it can think at all.
        adaptive: whether it decides by itself how much, so that a budget is refused.
        sampling: whether temperature, top_p and top_k are taken.
        formats: whether the form of an answer is enforced by schema.
        efforts: the efforts it knows.
        max_tokens: the limit when none is asked for.
    """

    thinking: bool = True
    adaptive: bool = False
    sampling: bool = True
    formats: bool = False
    efforts: tuple[Effort, ...] = ()
    max_tokens: int = 8192


def ways_of(model: str) -> Ways:
    """A model's ways by its name; one that is not Anthropic's own is taken for the plain API."""
    found = _GENERATION.search(model)
    if found is None:
        return Ways(thinking="claude" not in model)
    generation = (int(found[1]), int(found[2] or 0))
    if generation < (3, 5):
        return Ways(thinking=False, max_tokens=4096)
    if generation < (3, 7):
        return Ways(thinking=False)
    if generation < (4, 6):
        return Ways(formats=generation >= (4, 5), max_tokens=32000)
    if generation < (4, 7):
        return Ways(adaptive=True, formats=True, efforts=("low", "medium", "high", "max"), max_tokens=32000)
    efforts: tuple[Effort, ...] = ("low", "medium", "high", "xhigh", "max")
    return Ways(adaptive=True, sampling=False, formats=True, efforts=efforts, max_tokens=32000)


# Reading


def read_request(value: object) -> ChatRequest:
    """A whole request from its JSON values, which are used up.

    Raises:
        InvalidInput: a field has the wrong form; names it.
    """
    fields = Fields(value)
    model = fields.needed("model")
    system = read_blocks(fields.value("system"), "system")
    messages = (Message("system", system),) if system else ()
    choice, parallel = _read_choice(fields)
    tools, others = _read_tools(fields.items("tools"))
    thinking, wish, output, extra = _read_thinking(fields)
    metadata = fields.object("metadata") or {}
    user = metadata.pop("user_id", None)
    if user is not None and not isinstance(user, str):
        raise wrong("metadata.user_id", "text", user)
    if metadata:
        extra["metadata"] = metadata
    if output:
        extra["output_config"] = output
    if thinking:
        extra["thinking"] = thinking
    if others:
        extra["tools"] = others
    stop = fields.items("stop_sequences")
    if not all(isinstance(item, str) for item in stop):
        raise wrong("stop_sequences", "a list of texts", stop)
    return ChatRequest(
        model=model,
        messages=(*messages, *_read_messages(fields.items("messages"))),
        tools=tools,
        tool_choice=choice,
        parallel_tool_calls=parallel,
        response_format=_read_format(wish),
        reasoning=_reasoning(thinking, extra, output, fields),
        max_tokens=fields.integer("max_tokens"),
        temperature=fields.number("temperature"),
        top_p=fields.number("top_p"),
        top_k=fields.integer("top_k"),
        stop=tuple(stop),
        stream=bool(fields.flag("stream")),
        user=user or "",
        service_tier=fields.text("service_tier"),
        extra={**fields.rest(), **extra},
        dialect=NAME,
    )


def _read_messages(items: list[Any]) -> list[Message]:
    if not items:
        raise InvalidInput("The field 'messages' must hold a message.", hint="Send at least one.", field="messages")
    messages: list[Message] = []
    for number, item in enumerate(items):
        fields = Fields(item, f"messages[{number}]")
        role = fields.needed("role")
        if role not in {"user", "assistant", "system"}:
            raise InvalidInput(
                f"The field 'messages[{number}].role' cannot be used: there is no role '{role[:40]}'.",
                hint="Use user or assistant.",
                field=f"messages[{number}].role",
            )
        parts = read_blocks(fields.value("content"), fields.path("content"))
        if role == "user":
            messages.extend(_turns(parts, fields.rest()))
        else:
            messages.append(Message(cast("Any", role), parts, "", fields.rest()))
    return messages


def _turns(parts: tuple[Part, ...], extra: dict[str, Any]) -> list[Message]:
    """A user's turn: what tools gave back, one message each, and what the user says between and behind."""
    if not any(isinstance(part, ToolResultPart) for part in parts):
        return [Message("user", parts, "", extra)]
    turns: list[Message] = []
    said: list[Part] = []
    for part in parts:
        if isinstance(part, ToolResultPart):
            if said:
                turns.append(Message("user", tuple(said)))
                said = []
            turns.append(Message("tool", (part,)))
        else:
            said.append(part)
    if said:
        turns.append(Message("user", tuple(said), "", extra))
    return turns


def _read_tools(items: list[Any]) -> tuple[tuple[Tool, ...], list[Any]]:
    """The client's own tools, and those that run on the provider's side."""
    tools: list[Tool] = []
    others: list[Any] = []
    for number, item in enumerate(items):
        if isinstance(item, dict) and item.get("type") not in (None, "custom"):
            others.append(item)
            continue
        fields = Fields(item, f"tools[{number}]")
        fields.value("type")
        cache = read_cache(fields)
        tools.append(
            Tool(
                fields.needed("name"),
                fields.text("description"),
                fields.object("input_schema") or {},
                fields.flag("strict"),
                cache,
                fields.rest(),
            )
        )
    return tuple(tools), others


def _read_choice(fields: Fields) -> tuple[ToolChoice | None, bool | None]:
    found = fields.within("tool_choice")
    if found is None:
        return None, None
    alone = found.flag("disable_parallel_tool_use")
    parallel = None if alone is None else not alone
    match found.value("type"):
        case "auto":
            return ToolChoice("auto"), parallel
        case "any":
            return ToolChoice("required"), parallel
        case "none":
            return ToolChoice("none"), parallel
        case "tool":
            return ToolChoice("tool", found.needed("name")), parallel
        case other:
            raise wrong("tool_choice.type", "auto, any, tool or none", other)


def _read_thinking(fields: Fields) -> tuple[dict[str, Any], Any, dict[str, Any], dict[str, Any]]:
    """`thinking`, the wished form of the answer, and the rest of `output_config`."""
    thinking = fields.object("thinking") or {}
    output = fields.object("output_config") or {}
    wish = output.pop("format", None) or fields.value("output_format")
    return thinking, wish, {name: value for name, value in output.items() if value is not None}, {}


def _reasoning(
    thinking: dict[str, Any], extra: dict[str, Any], output: dict[str, Any], fields: Fields
) -> Reasoning | None:
    """How much to think. What is said in full by the neutral type is taken out of `extra`."""
    effort = output.get("effort")
    if effort is not None and not (isinstance(effort, str) and effort in _EFFORTS):
        raise wrong(fields.path("output_config.effort"), "low, medium, high, xhigh or max", effort)
    kind = thinking.get("type") if thinking else None
    budget = thinking.get("budget_tokens")
    if budget is not None and (not isinstance(budget, int) or isinstance(budget, bool)):
        raise wrong("thinking.budget_tokens", "an integer", budget)
    if kind == "disabled":
        if thinking.keys() == {"type"}:
            extra.pop("thinking")
        return Reasoning(effort="none")
    if effort is not None:
        output.pop("effort")
        if not output:
            extra.pop("output_config", None)
    if kind == "enabled" and thinking.keys() == {"type", "budget_tokens"}:
        extra.pop("thinking")
    if kind is None and effort is None:
        return None
    summary = "auto" if thinking.get("display") == "summarized" else ""
    return Reasoning(cast("Effort", effort or ""), budget, summary)


def _read_format(wish: object) -> ResponseFormat | None:
    if wish is None:
        return None
    match wish:
        case {"type": "json_schema", "schema": dict() as schema}:
            return ResponseFormat("json_schema", schema=schema)
    raise wrong("output_config.format", "a form of type json_schema with a schema", wish)


# Writing


def write_request(request: ChatRequest, *, model: str, quirks: Quirks) -> Outgoing:
    """A request for one of the provider's models.

    Raises:
        InvalidInput: it holds audio, or a file that Anthropic does not read.
    """
    writing = _Writing(request, model)
    body = writing.body()
    return Outgoing(
        quirks.path_for(model), encoded(body), (("anthropic-version", VERSION),), tuple(sorted(writing.dropped))
    )


class _Writing:
    """One request on its way to JSON; `dropped` gathers what could not be said."""

    def __init__(self, request: ChatRequest, model: str) -> None:
        self._request = request
        self._model = model
        self._own = request.dialect == NAME
        self._ways = ways_of(model)
        self.dropped: set[str] = set()

    def body(self) -> dict[str, Any]:
        request = self._request
        system, messages = self._messages()
        body: dict[str, Any] = {"model": self._model, "max_tokens": request.max_tokens or self._ways.max_tokens}
        if system:
            body["system"] = system[0]["text"] if len(system) == 1 and system[0].keys() == {"type", "text"} else system
        body["messages"] = messages
        tools = [self._tool(tool) for tool in request.tools]
        choice = self._choice()
        output: dict[str, Any] = {}
        choice = self._format(tools, output, system, body, choice)
        if self._own:
            tools.extend(request.extra.get("tools", ()))
            self._own_thinking(body, output)
        else:
            self._thinking(body, output, messages, choice)
        if tools:
            body["tools"] = tools
            if choice is not None:
                body["tool_choice"] = choice
        elif request.tool_choice is not None and request.tool_choice.mode != "none":
            self.dropped.add("tool_choice")
        self._sampling(body)
        self._rest(body)
        if self._own:
            body = {**request.extra, **body}
            output = {**request.extra.get("output_config", {}), **output}
        else:
            self.dropped.update(request.extra)
        if output:
            body["output_config"] = output
        return body

    def _rest(self, body: dict[str, Any]) -> None:
        request = self._request
        if request.stop:
            stops = [stop for stop in request.stop if self._own or stop.strip()]
            if len(stops) < len(request.stop):
                self.dropped.add("stop")
            if stops:
                body["stop_sequences"] = stops
        metadata: dict[str, Any] = dict(request.extra.get("metadata", {})) if self._own else {}
        if request.user:
            metadata["user_id"] = request.user
        if metadata:
            body["metadata"] = metadata
        if request.service_tier:
            tier = {"default": "standard_only", "priority": "auto"}.get(request.service_tier, request.service_tier)
            if tier in {"auto", "standard_only"}:
                body["service_tier"] = tier
            else:
                self.dropped.add("service_tier")
        if request.stream:
            body["stream"] = True
        for name in ("presence_penalty", "frequency_penalty", "seed"):
            if getattr(request, name) is not None:
                self.dropped.add(name)
        if request.n is not None and request.n > 1:
            self.dropped.add("n")
        if request.metadata:
            self.dropped.add("metadata")

    def _sampling(self, body: dict[str, Any]) -> None:
        """Thinking within a budget leaves temperature and top_k alone, and top_p near to one."""
        request = self._request
        budgeted = not self._own and body.get("thinking", {}).get("type") == "enabled"
        for name in ("temperature", "top_p", "top_k"):
            value = getattr(request, name)
            if value is None:
                continue
            fits = self._ways.sampling and not (budgeted and (name != "top_p" or value < 0.95))
            if not (self._own or fits):
                self.dropped.add(name)
            elif name == "temperature":
                body[name] = min(value, 1.0)
            else:
                body[name] = value

    def _own_thinking(self, body: dict[str, Any], output: dict[str, Any]) -> None:
        wish = self._request.reasoning
        if wish is None:
            return
        if "thinking" not in self._request.extra:
            if wish.effort == "none":
                body["thinking"] = {"type": "disabled"}
            elif wish.budget_tokens is not None:
                body["thinking"] = {"type": "enabled", "budget_tokens": wish.budget_tokens}
        if wish.effort not in {"", "none"}:
            output["effort"] = wish.effort

    def _thinking(
        self,
        body: dict[str, Any],
        output: dict[str, Any],
        messages: list[dict[str, Any]],
        choice: dict[str, Any] | None,
    ) -> None:
        """By effort where the model decides itself, else within a budget; not beside a forced tool."""
        wish, ways = self._request.reasoning, self._ways
        if wish is None:
            return
        if wish.effort == "none" or wish.budget_tokens == 0:
            if ways.adaptive:
                body["thinking"] = {"type": "disabled"}
            return
        if not ways.thinking or (choice is not None and choice["type"] in {"any", "tool"}):
            self.dropped.add("reasoning")
            return
        if ways.adaptive:
            effort = wish.effort or (effort_of(wish.budget_tokens) if wish.budget_tokens else "")
            if effort:
                output["effort"] = nearest(effort, ways.efforts)
            body["thinking"] = {"type": "adaptive"}
            if wish.summary:
                body["thinking"]["display"] = "summarized"
            return
        if _unsigned_call(messages):
            self.dropped.add("reasoning")  # a turn with calls must then begin with the thinking that led to them
            return
        budget = max(wish.budget_tokens or budget_of(wish.effort or "medium"), _MIN_BUDGET)
        if wish.budget_tokens is None:  # half of the limit is left for the answer
            budget = min(budget, max(body["max_tokens"] // 2, _MIN_BUDGET))
        elif self._request.max_tokens is None and budget >= body["max_tokens"]:
            body["max_tokens"] += budget
        budget = min(budget, body["max_tokens"] - 1)
        if budget < _MIN_BUDGET:
            self.dropped.add("reasoning")
            return
        body["thinking"] = {"type": "enabled", "budget_tokens": budget}

    def _format(
        self,
        tools: list[dict[str, Any]],
        output: dict[str, Any],
        system: list[dict[str, Any]],
        body: dict[str, Any],
        choice: dict[str, Any] | None,
    ) -> dict[str, Any] | None:
        """The form of the answer: by schema where the model enforces one, else as the input of a tool it must call."""
        wish = self._request.response_format
        if wish is None or wish.kind == "text":
            return choice
        if wish.kind == "json_schema" and (self._ways.formats or self._own):
            output["format"] = {"type": "json_schema", "schema": wish.schema if self._own else enforceable(wish.schema)}
            return choice
        if wish.kind == "json_object":
            self.dropped.add("response_format")
            body["system"] = [*system, {"type": "text", "text": "Answer with one JSON object and nothing else."}]
            return choice
        schema = wish.schema if wish.schema.get("type") == "object" else {"type": "object", **wish.schema}
        description = wish.description or "Gives the answer. Call it exactly once, with the whole answer as its input."
        tools.append({"name": JSON_TOOL, "description": description, "input_schema": schema})
        return {"type": "any"} if self._request.tools else {"type": "tool", "name": JSON_TOOL}

    def _tool(self, tool: Tool) -> dict[str, Any]:
        schema = tool.parameters
        if not self._own and schema.get("type") != "object":
            schema = {"type": "object", "properties": {}, **schema}
        found: dict[str, Any] = {"name": tool.name}
        if tool.description:
            found["description"] = tool.description
        found["input_schema"] = schema
        if tool.strict is not None and self._own:
            found["strict"] = tool.strict
        elif tool.strict and self._ways.formats:
            found["strict"] = True
            found["input_schema"] = enforceable(schema)
        elif tool.strict:
            self.dropped.add("strict")
        if tool.cache:
            found["cache_control"] = write_cache(tool.cache)
        return {**tool.extra, **found} if self._own else found

    def _choice(self) -> dict[str, Any] | None:
        choice, parallel = self._request.tool_choice, self._request.parallel_tool_calls
        found: dict[str, Any] | None = None
        if choice is not None:
            kind = "any" if choice.mode == "required" else choice.mode
            found = {"type": kind, "name": choice.tool} if kind == "tool" else {"type": kind}
        if parallel is not None and (found is None or found["type"] != "none"):
            found = found or {"type": "auto"}
            if self._own or not parallel:
                found["disable_parallel_tool_use"] = not parallel
        return found

    # Messages

    def _messages(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """System blocks and turns: system prompts stand first, and turns of one side become one."""
        system: list[dict[str, Any]] = []
        turns: list[dict[str, Any]] = []
        for number, message in enumerate(self._request.messages):
            at = f"messages[{number}]"
            blocks = [write_block(part, at, own=self._own) for part in message.parts if self._sayable(part, message)]
            if message.role in {"system", "developer"} and not (self._own and turns):
                system.extend(blocks)
                continue
            role = "user" if message.role == "tool" else message.role
            if not blocks and not self._own:
                continue
            if message.name and not self._own:
                self.dropped.add("messages.name")
            if turns and turns[-1]["role"] == role:
                turns[-1]["content"].extend(blocks)
            else:
                turns.append({"role": role, "content": blocks, **(message.extra if self._own else {})})
        if not turns:
            if not system:
                raise InvalidInput("There is nothing in the messages.", hint="Send text.", field="messages")
            turns.append({"role": "user", "content": [system.pop()]})
        for turn in turns:
            self._tidy(turn)
        if not self._own and turns[-1]["role"] == "assistant" and isinstance(turns[-1]["content"], str):
            turns[-1]["content"] = turns[-1]["content"].rstrip()
        return system, turns

    def _sayable(self, part: Part, message: Message) -> bool:
        """Whether a part may be sent: no empty text, and no thinking that Anthropic has not signed."""
        if self._own:
            return True
        if isinstance(part, TextPart):
            if is_block(part) and not part.text:
                self.dropped.add("messages.part")
            return bool(part.text.strip())
        if isinstance(part, ReasoningPart):
            form = part.extra.get("format", "anthropic")
            state = unmarked(part.signature) or part.redacted
            signed = state and not part.id and str(form).startswith("anthropic")
            if not signed or message.role != "assistant":
                self.dropped.add("messages.reasoning")
                return False
        if isinstance(part, ToolCallPart) and part.signature:
            self.dropped.add("messages.signature")
        return True

    def _tidy(self, turn: dict[str, Any]) -> None:
        """Results of tools come first in a turn, and one plain text is written as text."""
        blocks = turn["content"]
        if turn["role"] == "user" and len(blocks) > 1 and not self._own:
            blocks.sort(key=lambda block: block["type"] != "tool_result")
        if len(blocks) == 1 and blocks[0].keys() == {"type", "text"} and blocks[0]["type"] == "text":
            turn["content"] = blocks[0]["text"]


def _unsigned_call(messages: list[dict[str, Any]]) -> bool:
    """Whether the last turn of the assistant calls tools without the thinking that led to it."""
    for message in reversed(messages):
        if message["role"] == "assistant":
            kinds = [block["type"] for block in message["content"]] if isinstance(message["content"], list) else []
            return "tool_use" in kinds and kinds[0] not in {"thinking", "redacted_thinking"}
    return False
