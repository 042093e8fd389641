"""Questions to kvstore that a host call waits for, on behalf of the process's owner."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

from pie_wire.codec import Buffer
from pie_wire.errors import HashMismatch, NotFound, PieError, StoreUnavailable, Unavailable
from pie_wire.hub import Answer
from pie_wire.membership import KVSTORE
from pie_wire.messages.base import Message, Request
from pie_wire.messages.common import CHUNK_BYTES
from pie_wire.messages.kvstore import ArtifactChunk, ArtifactState, GetArtifact, PutArtifact

from pie_runner.exports import MAX_BYTES
from pie_runner.process import process_of
from pie_runner.wasm.hostcall import Pending

if TYPE_CHECKING:
    from pie_runner.wasm.fiber import Fiber

TIMEOUT = 5.0
UPLOAD_CHUNK = 4 * CHUNK_BYTES

R = TypeVar("R", bound=Message)


def request(
    fiber: Fiber,
    pending: Pending,
    question: Request[R],
    then: Callable[[Answer[R]], None],
    otherwise: Mapping[type[PieError], Callable[[], None]] | None = None,
    *,
    buffers: Sequence[Buffer] = (),
    failed: Callable[[], None] = lambda: None,
) -> None:
    """Ask; `then` gets the answer. An error fails the call, after `failed`, unless `otherwise` has what to do for its
    type."""
    process = process_of(fiber)
    hub = process.facilities.hub

    def answered(answer: Answer[R]) -> None:
        if pending.done:
            return
        error = answer.error
        if error is None:
            then(answer)
        elif type(error) in (otherwise or {}):
            (otherwise or {})[type(error)]()
        else:
            refused(error)

    def refused(error: PieError) -> None:
        failed()
        if isinstance(error, Unavailable):
            error = StoreUnavailable(f"snapshots are not available now: {error.message}", cause=error.code)
        pending.fail(error)

    try:
        number = hub.request(KVSTORE, question, answered, timeout=TIMEOUT, scope=process.scope, buffers=buffers)
    except PieError as exc:
        refused(exc)
    else:
        pending.on_abandon = lambda: hub.cancel(number)


def upload(fiber: Fiber, pending: Pending, data: bytes, sha256: str, then: Callable[[], None]) -> None:
    """Put the data of a snapshot; `then` when kvstore has all of it."""

    def send(offset: int) -> None:
        question = PutArtifact(sha256, len(data), offset, snapshot=True)
        request(fiber, pending, question, sent, buffers=[data[offset : offset + UPLOAD_CHUNK]])

    def sent(answer: Answer[ArtifactState]) -> None:
        state = answer.value()
        if state.complete:
            then()
        else:
            send(state.stored)

    send(0)


def download(
    fiber: Fiber, pending: Pending, sha256: str, then: Callable[[bytes], None], missing: Callable[[], None]
) -> None:
    """Get the data of a snapshot, whose digest kvstore has checked when it was put; `missing` when it is gone."""
    data = bytearray()

    def ask() -> None:
        request(fiber, pending, GetArtifact(sha256, len(data), snapshot=True), came, {NotFound: missing})

    def came(answer: Answer[ArtifactChunk]) -> None:
        size = answer.value().size
        data.extend(answer.buffers[0] if answer.buffers else b"")
        if size > MAX_BYTES or len(data) > size or not (answer.buffers and len(answer.buffers[0])):
            pending.fail(HashMismatch(f"the stored data of the snapshot does not fit: {len(data)} of {size} bytes"))
        elif len(data) < size:
            ask()
        else:
            then(bytes(data))

    ask()
