"""Messages that the gateway sends to a client."""

from __future__ import annotations

from typing import ClassVar

from pie_wire.messages.base import Push, Request
from pie_wire.messages.common import Event
from pie_wire.messages.gateway import ToolAnswered


class ProcessEvents(Push, frozen=True, omit_defaults=True):
    """The next events of attached processes, dense and in order for each: `counts[i]` consecutive items of `events`
    belong to `pids[i]`."""

    verb: ClassVar[str] = "client.events"
    pids: list[str]
    counts: list[int]
    events: list[Event]


class Replaced(Push, frozen=True, omit_defaults=True):
    """Another attach took over this process's events."""

    verb: ClassVar[str] = "client.replaced"
    pid: str


class CallTool(Request[ToolAnswered], frozen=True, omit_defaults=True):
    """A process of this client calls a tool server that the client named in its launch."""

    verb: ClassVar[str] = "client.call-tool"
    reply: ClassVar[type[ToolAnswered]] = ToolAnswered
    pid: str
    server: str
    method: str
    params: str
