"""Tool servers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec
from pie_wire.errors import BadRequest, ErrorInfo, PieError

from pie_runner.host import checks
from pie_runner.host.futures import waitable_id
from pie_runner.outside.tools import ToolAnswer
from pie_runner.process import process_of
from pie_runner.wasm.hostcall import Err, HostFunction, Ok, Pending

if TYPE_CHECKING:
    from pie_runner.wasm.fiber import Fiber

MAX_ARGUMENTS = 256 << 10
MAX_NAME = 16 << 10
"""Characters of the name of a tool or prompt, and of the address of a resource."""


class ToolSession:
    """The WIT's `session`: a name. Connections belong to the server, not to programs."""

    def __init__(self, name: str) -> None:
        self.name = name

    def close(self) -> None:
        """Nothing to release."""


def servers(fiber: Fiber) -> list[str]:
    """Names that `connect` takes."""
    return process_of(fiber).outside.tools.names()


def connect(fiber: Fiber, name: str) -> Pending:
    """Parks while the server starts."""
    pending = Pending(fiber)

    def told(_: str, error: PieError | None) -> None:
        if error is None:
            pending.resolve(ToolSession(name))
        else:
            pending.fail(error)

    pending.on_abandon = process_of(fiber).outside.tools.connect(name, told)
    return pending


def list_tools(fiber: Fiber, session: ToolSession) -> ToolAnswer:
    """All pages of them."""
    return _ask(fiber, session, "tools/list", {})


def call_tool(fiber: Fiber, session: ToolSession, name: str, arguments: str) -> ToolAnswer:
    """Call one."""
    return _ask(fiber, session, "tools/call", _named(name, arguments))


def list_resources(fiber: Fiber, session: ToolSession) -> ToolAnswer:
    """All pages of them."""
    return _ask(fiber, session, "resources/list", {})


def read_resource(fiber: Fiber, session: ToolSession, uri: str) -> ToolAnswer:
    """What it holds."""
    return _ask(fiber, session, "resources/read", {"uri": checks.text(uri, "the address", MAX_NAME)})


def list_prompts(fiber: Fiber, session: ToolSession) -> ToolAnswer:
    """All pages of them."""
    return _ask(fiber, session, "prompts/list", {})


def get_prompt(fiber: Fiber, session: ToolSession, name: str, arguments: str) -> ToolAnswer:
    """Its messages."""
    return _ask(fiber, session, "prompts/get", _named(name, arguments))


def answer_get(_fiber: Fiber, answer: ToolAnswer) -> Ok | Err | None:
    """The JSON text, once."""
    found = answer.take()
    if found is None:
        return None
    return Err(found) if isinstance(found, ErrorInfo) else Ok(found)


def _ask(fiber: Fiber, session: ToolSession, method: str, params: dict[str, object]) -> ToolAnswer:
    return process_of(fiber).outside.tools.ask(session.name, method, msgspec.json.encode(params).decode())


def _named(name: str, arguments: str) -> dict[str, object]:
    return {"name": checks.text(name, "the name", MAX_NAME), "arguments": _object(arguments)}


def _object(text: str) -> dict[str, msgspec.Raw]:
    """Looked at, and handed on as it is."""
    try:
        return msgspec.json.decode(
            checks.text(text, "the arguments", MAX_ARGUMENTS) or "{}", type=dict[str, msgspec.Raw]
        )
    except (msgspec.MsgspecError, RecursionError) as exc:
        raise BadRequest(f"the arguments must be a JSON object: {exc}") from exc


FUNCTIONS: Mapping[str, HostFunction] = {
    "servers": servers,
    "connect": connect,
    "[method]session.list-tools": list_tools,
    "[method]session.call-tool": call_tool,
    "[method]session.list-resources": list_resources,
    "[method]session.read-resource": read_resource,
    "[method]session.list-prompts": list_prompts,
    "[method]session.get-prompt": get_prompt,
    "[method]pending-answer.id": waitable_id,
    "[method]pending-answer.get": answer_get,
}
