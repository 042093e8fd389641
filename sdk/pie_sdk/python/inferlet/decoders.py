"""What a model writes: text, reasoning and tool calls, found in its tokens."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from wit_world.imports import decoders as raw

from inferlet.errors import host_errors
from inferlet.grammar import Lark
from inferlet.model import Model


@dataclass(frozen=True)
class Text:
    """Text for the user."""

    text: str


@dataclass(frozen=True)
class ReasoningStart:
    """The model begins to think."""


@dataclass(frozen=True)
class Reasoning:
    """A piece of its thoughts."""

    text: str


@dataclass(frozen=True)
class ReasoningEnd:
    """All of them."""

    text: str


@dataclass(frozen=True)
class CallStart:
    """A call has begun; its name where the format says it first."""

    name: str


@dataclass(frozen=True)
class ToolCall:
    """A whole call."""

    id: str
    name: str
    arguments: dict[str, Any]

    @property
    def message(self) -> dict[str, Any]:
        """As an item of an assistant's `tool_calls`."""
        return {"id": self.id, "type": "function", "function": {"name": self.name, "arguments": self.arguments}}


@dataclass(frozen=True)
class BadCall:
    """What looked like a call and is none."""

    text: str
    reason: str


@dataclass(frozen=True)
class Special:
    """A special token that is none of the above."""

    token: int


@dataclass(frozen=True)
class Done:
    """The end, with the whole text for the user."""

    text: str


Event = Text | ReasoningStart | Reasoning | ReasoningEnd | CallStart | ToolCall | BadCall | Special | Done


class Decoder:
    """Incremental: feed it the tokens of one answer."""

    def __init__(
        self,
        model: Model,
        *,
        reasoning: bool = True,
        tools: bool = True,
        starts_in_reasoning: bool | None = None,
    ) -> None:
        """Without `reasoning` (or `tools`), reasoning (or calls) are text like any other. `starts_in_reasoning` says
        whether the answer begins inside its reasoning; None leaves that to the model's template."""
        options = raw.Options(reasoning, tools, starts_in_reasoning)
        self._handle = raw.Decoder.create(model.handle, options)

    def feed(self, tokens: Sequence[int]) -> list[Event]:
        """What these tokens make certain. Tokens behind a stop id are ignored."""
        with host_errors():
            return [_event(event) for event in self._handle.feed(list(tokens))]

    def finish(self) -> list[Event]:
        """The end came without a stop id."""
        return [_event(event) for event in self._handle.finish()]

    def reset(self) -> None:
        """To the beginning of another answer."""
        self._handle.reset()


@dataclass(frozen=True)
class ToolFormat:
    """How a model writes a call: `source` is `template`, `family` or `fallback`."""

    source: str
    opening: str
    closing: str


def tool_format(model: Model) -> ToolFormat:
    """How this model writes a call."""
    found = raw.format(model.handle)
    return ToolFormat(found.source, found.opening, found.closing)


def call_grammar(model: Model, tools: Iterable[dict[str, Any]]) -> Lark:
    """For `generate(grammar=...)`: one call or more of these tools, with valid arguments, in this model's format."""
    with host_errors():
        return Lark(raw.call_grammar(model.handle, json.dumps(list(tools))).text)


def _event(event: raw.Event) -> Event:
    match event:
        case raw.Event_Text(text):
            return Text(text)
        case raw.Event_ReasoningStart():
            return ReasoningStart()
        case raw.Event_Reasoning(text):
            return Reasoning(text)
        case raw.Event_ReasoningEnd(text):
            return ReasoningEnd(text)
        case raw.Event_CallStart(name):
            return CallStart(name)
        case raw.Event_Call(call):
            return ToolCall(call.id, call.name, json.loads(call.arguments))
        case raw.Event_BadCall(bad):
            return BadCall(bad.text, bad.reason)
        case raw.Event_Special(token):
            return Special(token)
        case raw.Event_Done(text):
            return Done(text)
