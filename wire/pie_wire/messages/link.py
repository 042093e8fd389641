"""The link's own messages: handshake, liveness, repair."""

from __future__ import annotations

from typing import ClassVar

import msgspec

from pie_wire.errors import ErrorInfo
from pie_wire.messages.base import Message


class Identity(msgspec.Struct, frozen=True, omit_defaults=True):
    """Who a peer is. (kind, name, epoch) names one incarnation of a member; clients have epoch 0."""

    kind: str
    name: str
    epoch: int = 0
    incarnation: str = ""
    """Random per process start: tells a restart from a reconnect."""
    pid: int = 0
    host: str = ""
    """Identifies the process table `pid` belongs to; equal values mean that each side can watch the other's pid."""


class LinkMessage(Message, frozen=True, omit_defaults=True):
    handshake: ClassVar[bool] = True


class Hello(LinkMessage, frozen=True, omit_defaults=True):
    """First frame of a link, from the side that dials, repeated until answered."""

    verb: ClassVar[str] = "link.hello"
    major: int
    minor: int
    identity: Identity
    session: int = 0
    """The session to resume, 0 for a new one."""
    received: int = 0
    """Last number received in that session."""
    attempt: int = 0
    """Numbers the dialer's wishes for a new session, growing; a repeated hello keeps it and gets the same session."""


class Ready(LinkMessage, frozen=True, omit_defaults=True):
    """The link is open. `session` is new, or the one asked for, which then resumes after `received`."""

    verb: ClassVar[str] = "link.ready"
    major: int
    minor: int
    identity: Identity
    session: int
    received: int = 0
    beat_ms: int = 500
    dead_ms: int = 15000
    attempt: int = 0
    """That of the hello it answers."""


class Refused(LinkMessage, frozen=True, omit_defaults=True):
    """The link is not opened, or a frame could not be read; the error says why."""

    verb: ClassVar[str] = "link.refused"
    error: ErrorInfo
    attempt: int = 0
    """That of the hello it refuses; 0 when it complains of another frame, which leaves the session as it is."""


class Rehello(LinkMessage, frozen=True, omit_defaults=True):
    """The receiver knows no such session: greet again."""

    verb: ClassVar[str] = "link.rehello"


class Beat(LinkMessage, frozen=True, omit_defaults=True):
    """Liveness. The header acknowledges; `sent` lets the receiver see a lost tail."""

    verb: ClassVar[str] = "link.beat"
    sent: int = 0
    progress: int = 0
    """A counter of work done: it stands still in a process that is alive but stuck."""


class Resend(LinkMessage, frozen=True, omit_defaults=True):
    """A gap: send again from this number."""

    verb: ClassVar[str] = "link.resend"
    start: int


class Bye(LinkMessage, frozen=True, omit_defaults=True):
    """The sender leaves on purpose, with the cause; its last gasp."""

    verb: ClassVar[str] = "link.bye"
    error: ErrorInfo
