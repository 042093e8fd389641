"""Sessions: who talks to the gateway, over a link or from inside it (the HTTP front)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from pie_wire.codec import Buffer
from pie_wire.errors import PieError
from pie_wire.hub import Answer, Scope
from pie_wire.messages.base import Message, Push, Request

M = TypeVar("M", bound=Message)


@dataclass(eq=False)
class Session:
    """One client for as long as its link lives. `push` sends it a message and must not block."""

    name: str
    push: Callable[[Push], None]
    alive: bool = True
    ask: Callable[[Request[Any], Callable[[Answer[Any]], None], float], None] | None = None
    """Sends it a request, with what is to be called with the answer and a timeout; None for those that take none."""
    owned: set[str] = field(default_factory=set[str])
    """Processes this session launched or attached to last: they follow its end if their launch asked for it."""


@dataclass(frozen=True)
class Call(Generic[M]):
    """A request with the way to answer it; `reply` or `fail` is called exactly once, now or later."""

    session: Session
    message: M
    scope: Scope
    buffers: Sequence[Buffer]
    reply: Callable[[Message], None]
    fail: Callable[[PieError], None]
