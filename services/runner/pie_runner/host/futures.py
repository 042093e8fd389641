"""Waiting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from pie_wire.errors import BadRequest, TooLarge

from pie_runner.process import process_of
from pie_runner.waitables import MAX_WAITABLES
from pie_runner.wasm.hostcall import Err, HostFunction, Ok, Pending

if TYPE_CHECKING:
    from pie_runner.waitables import Completion, Waitable
    from pie_runner.wasm.fiber import Fiber


def wait_any(fiber: Fiber, ids: Sequence[int]) -> list[int] | Pending:
    """Ready ids, in the order asked. An empty list traps: nothing could ever wake the instance; so does
    one with more ids than there can be."""
    if not len(ids):
        raise BadRequest("wait-any was called with an empty list")
    if len(ids) > MAX_WAITABLES:
        raise TooLarge(f"wait-any was called with {len(ids)} ids, and a program holds {MAX_WAITABLES} at most")
    return process_of(fiber).waitables.wait(fiber, ids)


def waitable_id(_fiber: Fiber, item: Waitable) -> int:
    """For `wait-any`."""
    return item.id


def done_get(_fiber: Fiber, done: Completion) -> Ok | Err | None:
    """None until complete."""
    return done.get()


FUNCTIONS: Mapping[str, HostFunction] = {
    "wait-any": wait_any,
    "[method]done.id": waitable_id,
    "[method]done.get": done_get,
}
