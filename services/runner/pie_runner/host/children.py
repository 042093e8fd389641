"""Programs launched by programs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

from pie_runner.children import Child
from pie_runner.host import checks
from pie_runner.host.futures import waitable_id
from pie_runner.host.methods import reading
from pie_runner.process import process_of
from pie_runner.wasm.hostcall import HostFunction

if TYPE_CHECKING:
    from pie_runner.wasm.fiber import Fiber

MAX_PROGRAM = 200


class LaunchRecord(Protocol):
    """The WIT's `launch-request`."""

    @property
    def program(self) -> str: ...
    @property
    def input(self) -> str: ...
    @property
    def near(self) -> str | None: ...
    @property
    def detached(self) -> bool: ...


def launch(fiber: Fiber, request: LaunchRecord) -> Child:
    """Start another program."""
    process = process_of(fiber)
    process.capabilities.require(lambda grants: grants.children, "launching programs", "children = true", "children")
    program = checks.text(request.program, "the name of a program", MAX_PROGRAM)
    near = checks.name(request.near) if request.near is not None else ""
    return process.facilities.children.launch(process, program, request.input, near, detached=request.detached)


FUNCTIONS: Mapping[str, HostFunction] = {
    "launch": launch,
    "[method]child.id": waitable_id,
    "[method]child.pid": reading(Child, lambda child: child.pid),
    "[method]child.get": reading(Child, Child.get),
    "[method]child.cancel": reading(Child, Child.cancel),
    "[method]child.detach": reading(Child, Child.detach),
}
