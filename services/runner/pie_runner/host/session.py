"""The client on the other end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, cast

from pie_wire.errors import TooLarge
from pie_wire.file_names import PART_BYTES, file_name
from pie_wire.messages.common import MAX_EVENT_BYTES
from pie_wire.texts import byte_size

from pie_runner.base64_pieces import decoded_pieces
from pie_runner.host.futures import waitable_id
from pie_runner.process import process_of
from pie_runner.wasm.hostcall import Err, HostFunction, Ok, Pending

if TYPE_CHECKING:
    from pie_runner.mailbox import PendingMessage
    from pie_runner.wasm.fiber import Fiber


INLINE = 1 << 20
"""Characters of base64 that are decoded on the loop; more would hold it up."""


def send(fiber: Fiber, text: str, full: str) -> Ok | Pending:
    """A text message to the client."""
    _check_size(byte_size(text))
    return process_of(fiber).emit(fiber, "message", text=text, drop=full == "drop") or Ok()


def send_bytes(fiber: Fiber, data: bytes, full: str) -> Ok | Pending:
    """A binary message to the client."""
    _check_size(len(data))
    return process_of(fiber).emit(fiber, "binary", data=bytes(data), drop=full == "drop") or Ok()


def receive(fiber: Fiber) -> PendingMessage:
    """The next message of the client."""
    return process_of(fiber).mailbox.receive()


def send_file(fiber: Fiber, name: str, content: str) -> Ok | Pending:
    """A named file for the client."""
    process = process_of(fiber)
    file_name(name)
    limits = process.usage.limits
    if len(content) // 4 * 3 > limits.file_bytes + 2:
        raise limits.exceeded("file_bytes", f"file {name!r} is larger")
    what = f"the content of file {name!r}"
    if len(content) <= INLINE:
        return process.emit_file(fiber, name, [*decoded_pieces(content, what, PART_BYTES)]) or Ok()
    pending = Pending(fiber)

    def decoded(parts: object, error: Exception | None) -> None:
        if pending.done:
            return
        if error is not None:
            pending.fail(error)
        else:
            process.emit_file(fiber, name, cast("list[bytes]", parts), pending)

    process.offload(lambda: [*decoded_pieces(content, what, PART_BYTES)], decoded)
    return pending


def receive_file(fiber: Fiber) -> PendingMessage:
    """The next file of the client."""
    return process_of(fiber).files.receive()


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
    "send-file": send_file,
    "receive-file": receive_file,
    "[method]pending-file.id": waitable_id,
    "[method]pending-file.get": message_get,
    "[method]pending-message.id": waitable_id,
    "[method]pending-message.get": message_get,
}
