"""The client on the other end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pie_wire.errors import TooLarge
from pie_wire.messages.common import MAX_EVENT_BYTES

from pie_runner.host.futures import waitable_id
from pie_runner.process import process_of
from pie_runner.wasm.hostcall import Err, HostFunction, Ok, Pending

if TYPE_CHECKING:
    from pie_runner.mailbox import PendingMessage
    from pie_runner.wasm.fiber import Fiber


def send(fiber: Fiber, text: str, full: str) -> Ok | Pending:
    """A text message to the client."""
    _check_size(len(text) if text.isascii() else len(text.encode()))
    return process_of(fiber).emit(fiber, "message", text=text, drop=full == "drop") or Ok()


def send_bytes(fiber: Fiber, data: bytes, full: str) -> Ok | Pending:
    """A binary message to the client."""
    _check_size(len(data))
    return process_of(fiber).emit(fiber, "binary", data=bytes(data), drop=full == "drop") or Ok()


def receive(fiber: Fiber) -> PendingMessage:
    """The next message of the client."""
    return process_of(fiber).mailbox.receive()


def message_get(_fiber: Fiber, pending: PendingMessage) -> Ok | Err | None:
    """None until a message came."""
    return pending.get()


def _check_size(size: int) -> None:
    if size > MAX_EVENT_BYTES:
        raise TooLarge(f"a message has at most {MAX_EVENT_BYTES} bytes, this one {size}: send it in parts")


FUNCTIONS: Mapping[str, HostFunction] = {
    "send": send,
    "send-bytes": send_bytes,
    "receive": receive,
    "[method]pending-message.id": waitable_id,
    "[method]pending-message.get": message_get,
}
