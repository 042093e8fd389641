"""Contexts as bytes, out and in."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pie_wire.errors import InternalError, PieError

from pie_runner.contexts import Context
from pie_runner.exports import MAX_TEXT, Archive, PendingExport, decode, encode
from pie_runner.host import checks
from pie_runner.host.model import ModelHandle
from pie_runner.imports import bring_in
from pie_runner.process import process_of
from pie_runner.wasm.hostcall import Ok, Pending

if TYPE_CHECKING:
    from pie_runner.wasm.fiber import Fiber


def export(fiber: Fiber, context: Context) -> PendingExport:
    """Up to the consumed point; a run goes on."""
    process = process_of(fiber)
    usage = process.usage
    usage.begin_export()

    def exported(parts: list[bytes] | None, error: PieError | None) -> None:
        if parts is None:
            pending.fail(error or InternalError("the engine gave no export"))
        else:
            process.offload(lambda: encode(parts), encoded)

    def encoded(text: object, exc: Exception | None) -> None:
        if isinstance(text, bytes):
            pending.deliver(text)
        else:
            pending.fail(InternalError(f"the export could not be written: {exc}"))

    try:
        pending = PendingExport(process.waitables)
    except PieError:
        usage.end_export()
        raise
    pending.on_close = usage.end_export
    forget = context.export(exported)

    def closed() -> None:
        usage.end_export()
        forget()

    pending.on_close = closed
    return pending


def import_context(fiber: Fiber, handle: ModelHandle, data: str) -> Pending:
    """A new context from an export."""
    process = process_of(fiber)
    session = process.facilities.engines.session(process, handle.model.name)
    checks.text(data, "the export", MAX_TEXT)
    pending = Pending(fiber)

    def decoded(archive: object, exc: Exception | None) -> None:
        if pending.done:
            return
        if not isinstance(archive, Archive):
            pending.fail(exc or InternalError("the export could not be read"))
            return
        try:
            process.usage.spend_tokens(len(archive.header.tokens))
        except PieError as error:
            pending.fail(error)
        else:
            bring_in(fiber, pending, session, archive, lambda context: pending.resolve(Ok(context)))

    process.offload(lambda: decode(data), decoded)
    return pending
