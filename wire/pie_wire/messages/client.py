"""Messages that the gateway pushes to a client."""

from __future__ import annotations

from typing import ClassVar

from pie_wire.messages.base import Push
from pie_wire.messages.common import Event


class ProcessEvents(Push, frozen=True, omit_defaults=True):
    """The next events of an attached process, dense and in order."""

    verb: ClassVar[str] = "client.events"
    pid: str
    events: list[Event]


class Replaced(Push, frozen=True, omit_defaults=True):
    """Another attach took over this process's events."""

    verb: ClassVar[str] = "client.replaced"
    pid: str
