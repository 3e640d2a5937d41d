"""A streamed answer as a whole one, and a whole one as a stream."""

from __future__ import annotations

from collections.abc import Iterable

from detent.kernel.chat import (
    AnswerStarted,
    ChatAnswer,
    ChatEvent,
    ChoiceFinished,
    FinishReason,
    Message,
    Part,
    ReasoningDelta,
    ReasoningPart,
    RefusalDelta,
    RefusalPart,
    TextDelta,
    TextPart,
    ToolCallDelta,
    ToolCallPart,
    ToolCallStarted,
    Usage,
    UsageReported,
)


class _Growing:
    """A part on its way: the first delta says what it is."""

    __slots__ = ("first", "redacted", "signature", "texts")

    def __init__(self, first: TextDelta | RefusalDelta | ReasoningDelta | ToolCallStarted | ToolCallDelta) -> None:
        self.first = first
        self.texts: list[str] = []
        self.signature = ""
        self.redacted = ""

    def part(self) -> Part:
        text = "".join(self.texts)
        match self.first:
            case TextDelta():
                return TextPart(text)
            case RefusalDelta():
                return RefusalPart(text)
            case ReasoningDelta(id=name):
                return ReasoningPart(text, self.signature, self.redacted, name)
            case ToolCallStarted(id=name, name=tool, signature=signature):
                return ToolCallPart(name, tool, text, signature)
            case ToolCallDelta():
                return ToolCallPart("", "", text)


def fold(events: Iterable[ChatEvent]) -> ChatAnswer:
    """The answer that a stream tells, as far as it has come.

    A choice that was not finished counts as cancelled. Usage is the last that was reported.
    """
    start = AnswerStarted()
    usage: Usage | None = None
    choices: dict[int, dict[int, _Growing]] = {0: {}}
    ends: dict[int, ChoiceFinished] = {}
    for event in events:
        match event:
            case TextDelta(text, index, choice) | RefusalDelta(text, index, choice):
                _grow(choices, event, index, choice).texts.append(text)
            case ToolCallDelta(arguments, index, choice):
                _grow(choices, event, index, choice).texts.append(arguments)
            case ReasoningDelta():
                growing = _grow(choices, event, event.index, event.choice)
                growing.texts.append(event.text)
                growing.signature = event.signature or growing.signature
                growing.redacted = event.redacted or growing.redacted
            case ToolCallStarted():
                _grow(choices, event, event.index, event.choice)
            case ChoiceFinished():
                choices.setdefault(event.choice, {})
                ends.setdefault(event.choice, event)
            case UsageReported(found):
                usage = found
            case AnswerStarted():
                start = event
                usage = event.usage or usage
    whole: list[tuple[Message, FinishReason]] = []
    for number in sorted(choices):
        parts = choices[number]
        message = Message("assistant", tuple(parts[index].part() for index in sorted(parts)))
        end = ends.get(number)
        whole.append((message, end.finish_reason if end else "cancelled"))
    (message, reason), *more = whole
    stop = ends[0].stop_sequence if 0 in ends else ""
    return ChatAnswer(start.id, start.model, message, reason, usage, stop, start.created, tuple(more))


def _grow(
    choices: dict[int, dict[int, _Growing]],
    event: TextDelta | RefusalDelta | ReasoningDelta | ToolCallStarted | ToolCallDelta,
    index: int,
    choice: int,
) -> _Growing:
    parts = choices.setdefault(choice, {})
    growing = parts.get(index)
    if growing is None:
        growing = parts[index] = _Growing(event)
    return growing


def unfold(answer: ChatAnswer) -> list[ChatEvent]:
    """An answer as a stream that tells it: each part in one piece."""
    events: list[ChatEvent] = [AnswerStarted(answer.id, answer.model, answer.created)]
    choices = [(answer.message, answer.finish_reason), *answer.more]
    for choice, (message, reason) in enumerate(choices):
        for index, part in enumerate(message.parts):
            match part:
                case TextPart(text):
                    events.append(TextDelta(text, index, choice))
                case RefusalPart(text):
                    events.append(RefusalDelta(text, index, choice))
                case ReasoningPart():
                    events.append(ReasoningDelta(part.text, part.signature, part.redacted, part.id, index, choice))
                case ToolCallPart():
                    events.append(ToolCallStarted(part.id, part.name, index, choice, part.signature))
                    if part.arguments:
                        events.append(ToolCallDelta(part.arguments, index, choice))
        events.append(ChoiceFinished(reason, choice, "" if choice else answer.stop_sequence))
    if answer.usage is not None:
        events.append(UsageReported(answer.usage))
    return events
