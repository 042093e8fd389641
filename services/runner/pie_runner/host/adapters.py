"""LoRA adapters that the operator has loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from pie_wire.messages.engine import AdapterList, ListAdapters

from pie_runner.host.asked import asked
from pie_runner.host.model import ModelHandle
from pie_runner.process import process_of
from pie_runner.wasm.hostcall import HostFunction, Ok, Pending

if TYPE_CHECKING:
    from pie_runner.wasm.fiber import Fiber


class Adapter(NamedTuple):
    """The WIT's `adapter`."""

    name: str
    digest: str
    rank: int
    current: bool


def available(fiber: Fiber, handle: ModelHandle) -> Pending:
    """Versions that a context can be given, by name."""
    process = process_of(fiber)
    session = process.facilities.engines.session(process, handle.model.name)
    return asked(fiber, session, ListAdapters(), _read)


def _read(answer: AdapterList) -> Ok:
    found = [a for a in answer.adapters if a.state != "unloaded"]
    return Ok([Adapter(a.name, a.digest, a.rank, a.state == "current") for a in sorted(found, key=lambda a: a.name)])


FUNCTIONS: Mapping[str, HostFunction] = {"available": available}
