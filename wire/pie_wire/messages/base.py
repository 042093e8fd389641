"""What every message is: a struct with a verb; requests name the type of their reply."""

from __future__ import annotations

from typing import Any, ClassVar, Generic, TypeVar

import msgspec


class Message(msgspec.Struct, frozen=True, omit_defaults=True):
    """A typed body. Unknown fields are ignored on arrival, so that a newer peer can add some."""

    verb: ClassVar[str] = ""
    handshake: ClassVar[bool] = False
    """True for the link's own messages, which are neither numbered nor delivered to the service."""


class Done(Message, frozen=True, omit_defaults=True):
    """The reply of a request that returns nothing."""

    verb: ClassVar[str] = "done"


R = TypeVar("R", bound=Message)


class Request(Message, Generic[R], frozen=True, omit_defaults=True):
    """A message that gets exactly one reply: its `reply` type, or an error."""

    reply: ClassVar[type[Any]] = Done


class Push(Message, frozen=True, omit_defaults=True):
    """A message without a reply; the link still delivers it exactly once, in order."""
