"""Named contexts, kept by kvstore as their tokens. Their KV is found in the engine's cache, or computed again.

What tokens do not tell (masks, positions, adapters, dropped tokens) is kept beside them, as the engine exports it:
without KV where that can be computed, with KV where it cannot.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING

from pie_wire.errors import BadRequest, Conflict, NotFound, PieError, Unavailable
from pie_wire.hub import Answer
from pie_wire.messages.engine import AdapterUse, Prefetch
from pie_wire.messages.kvstore import DeleteSnapshot, GetSnapshot, PutSnapshot, Snapshot, SnapshotRow

from pie_runner.contexts import Context
from pie_runner.exports import Archive, pack, unpack
from pie_runner.imports import bring_in
from pie_runner.models import Model
from pie_runner.process import process_of
from pie_runner.store_requests import download, request, upload
from pie_runner.wasm.hostcall import Ok, Pending

if TYPE_CHECKING:
    from pie_runner.wasm.fiber import Fiber

TRIES = 4
"""To open a snapshot that others replace meanwhile."""


def save(fiber: Fiber, context: Context, name: str) -> Pending:
    """Waits until the engine has accepted what the context holds, then until kvstore has the snapshot."""
    context.check_settled()
    process = process_of(fiber)
    pending = Pending(fiber)
    session = context.session

    def accepted() -> None:
        if pending.done:
            return
        error = context.take_fault()
        if error is not None:
            pending.fail(error)
        elif context.layout.is_plain:
            put(list(context.tokens))
        else:
            tokens = list(context.tokens)
            pending.on_abandon = context.export(lambda parts, error: exported(tokens, parts, error), bare=True)

    def exported(tokens: list[int], parts: list[bytes] | None, error: PieError | None) -> None:
        if parts is None:
            pending.fail(error or Unavailable("the engine gave no export"))
        elif not pending.done:
            process.offload(lambda: _sealed(parts), lambda result, exc: sealed(tokens, result, exc))

    def sealed(tokens: list[int], result: object, exc: Exception | None) -> None:
        if pending.done:
            return
        if isinstance(result, _Sealed):
            upload(fiber, pending, result.data, result.sha256, lambda: put(tokens, result.sha256))
        elif exc is not None:
            pending.fail(exc)

    def put(tokens: list[int], data: str = "") -> None:
        wall, engine = process.facilities.wall(), session.peer.name
        snapshot = Snapshot(name, session.facts.name, tokens, wall, engine, data)
        request(fiber, pending, PutSnapshot(snapshot), lambda _: pending.resolve(Ok()))

    session.after_ack(context.last_op, accepted)
    return pending


def open_snapshot(fiber: Fiber, model: Model, name: str, *, take: bool) -> Pending:
    """A context as the snapshot says, or None. A name saved with another model is refused, and kept; so is one that is
    to be taken and cannot be opened."""
    pending = Pending(fiber)
    _Opening(fiber, pending, model, name, take).look()
    return pending


def prefetch(fiber: Fiber, model: Model, name: str) -> Pending:
    """True once the home engine has been asked to compute the snapshot's KV ahead; False when there is no such name.
    Where more is to be known than tokens, and adapters from the first one on, nothing is computed ahead."""
    process = process_of(fiber)
    pending = Pending(fiber)

    def found(answer: Answer[SnapshotRow]) -> None:
        snapshot = answer.value().snapshot
        try:
            _check_model(snapshot, model)
        except PieError as exc:
            pending.fail(exc)
            return
        if snapshot.data:
            # Gone meanwhile: replaced or deleted, so there is nothing to compute for it.
            download(fiber, pending, snapshot.data, read, lambda: pending.resolve(Ok(True)))
        else:
            begin(snapshot.tokens, [])

    def read(data: bytes) -> None:
        process.offload(lambda: unpack(data), unpacked)

    def unpacked(archive: object, exc: Exception | None) -> None:
        if pending.done:
            return
        if not isinstance(archive, Archive):
            pending.fail(exc or BadRequest("the snapshot's data cannot be read"))
        elif (uses := archive.adapters) is not None:
            begin(archive.header.tokens, uses)
        else:
            pending.resolve(Ok(True))

    def begin(tokens: list[int], adapters: list[AdapterUse]) -> None:
        try:
            session = process.facilities.engines.session(process, model.name)
        except PieError as exc:
            pending.fail(exc)
            return
        session.submit(Prefetch(process.pid, process.scope.tenant, process.account, tokens, adapters))
        pending.resolve(Ok(True))

    request(fiber, pending, GetSnapshot(name), found, otherwise={NotFound: lambda: pending.resolve(Ok(False))})
    return pending


def delete(fiber: Fiber, name: str) -> Pending:
    """True if there was one."""
    pending = Pending(fiber)
    missing: dict[type[PieError], Callable[[], None]] = {NotFound: lambda: pending.resolve(Ok(False))}
    request(fiber, pending, DeleteSnapshot(name), lambda _: pending.resolve(Ok(True)), otherwise=missing)
    return pending


class _Sealed:
    """An export as kvstore gets it; made on a worker thread."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.sha256 = hashlib.sha256(data).hexdigest()


def _sealed(parts: list[bytes]) -> _Sealed:
    return _Sealed(pack(parts))


class _Opening:
    """One `open` or `take`: look at the row, fetch its data if it has some, make the context, and only then delete."""

    def __init__(self, fiber: Fiber, pending: Pending, model: Model, name: str, take: bool) -> None:
        self._fiber = fiber
        self._pending = pending
        self._model = model
        self._name = name
        self._take = take
        self._tries = 0
        self._process = process_of(fiber)

    def look(self) -> None:
        """Begin, again if the row changed in between."""
        self._tries += 1
        if self._tries > TRIES:
            self._pending.fail(Unavailable(f"snapshot {self._name!r} is replaced again and again: try later"))
            return
        request(self._fiber, self._pending, GetSnapshot(self._name), self._found, otherwise={NotFound: self._missing})

    def _missing(self) -> None:
        self._pending.resolve(Ok(None))

    def _found(self, answer: Answer[SnapshotRow]) -> None:
        snapshot = answer.value().snapshot
        try:
            _check_model(snapshot, self._model)
        except PieError as exc:
            self._pending.fail(exc)
            return
        if snapshot.data:
            download(self._fiber, self._pending, snapshot.data, lambda data: self._read(snapshot, data), self.look)
        else:
            self._made(snapshot, self._plain(snapshot))

    def _plain(self, snapshot: Snapshot) -> Context | None:
        context: Context | None = None
        try:
            session = self._process.facilities.engines.session(self._process, self._model.name)
            context = Context.create(session, self._process)
            context.append(snapshot.tokens, free=True)
        except PieError as exc:
            if context is not None:
                context.close()
            self._pending.fail(exc)
            return None
        return context

    def _read(self, snapshot: Snapshot, data: bytes) -> None:
        offload = self._process.offload
        offload(lambda: unpack(data), lambda archive, exc: self._unpacked(snapshot, archive, exc))

    def _unpacked(self, snapshot: Snapshot, archive: object, exc: Exception | None) -> None:
        if self._pending.done:
            return
        if not isinstance(archive, Archive):
            self._pending.fail(exc or BadRequest("the snapshot's data cannot be read"))
            return
        try:
            session = self._process.facilities.engines.session(self._process, self._model.name)
        except PieError as error:
            self._pending.fail(error)
            return
        bring_in(self._fiber, self._pending, session, archive, lambda context: self._made(snapshot, context))

    def _made(self, snapshot: Snapshot, context: Context | None) -> None:
        if context is None:
            return
        if not self._take:
            self._pending.resolve(Ok(context))
            return

        def gone() -> None:
            context.close()
            self._missing()

        def replaced() -> None:
            context.close()
            self.look()

        def failed() -> None:
            context.close()

        question = GetSnapshot(self._name, take=True, data=snapshot.data)
        otherwise: dict[type[PieError], Callable[[], None]] = {NotFound: gone, Conflict: replaced}

        def taken(answer: Answer[SnapshotRow]) -> None:
            there = answer.value().snapshot
            if (there.model, there.tokens) == (snapshot.model, snapshot.tokens):
                self._pending.resolve(Ok(context))
                return
            # It was replaced meanwhile by one that its tokens tell as well: that one is gone from the store now.
            context.close()
            try:
                _check_model(there, self._model)
            except PieError as exc:
                self._pending.fail(exc)
                return
            again = self._plain(there)
            if again is not None:
                self._pending.resolve(Ok(again))

        request(self._fiber, self._pending, question, taken, otherwise, failed=failed)


def _check_model(snapshot: Snapshot, model: Model) -> None:
    if snapshot.model != model.name:
        raise BadRequest(f"snapshot {snapshot.name!r} belongs to model {snapshot.model!r}: load that model to open it")
