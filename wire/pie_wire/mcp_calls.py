"""The calls of the Model Context Protocol that programs can make, on a session of the `mcp` package: what runs a
server, a runner or a client, hands its session in."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import msgspec

from pie_wire.errors import BadRequest, DeadlineExceeded, LimitExceeded, NotFound, PieError, Unavailable, Unsupported

MAX_PAGES = 100

LISTS = {"tools/list": "tools", "resources/list": "resources", "prompts/list": "prompts"}
CALLS = {"tools/call": "name", "resources/read": "uri", "prompts/get": "name"}
"""What each call must name."""

_UNSUPPORTED, _MISSING, _CLOSED, _LATE = {-32601}, {-32002}, {-32000}, {-32001}
_MALFORMED = {-32602, -32600, -32700}


class McpSession(Protocol):
    """What is used here of `mcp.ClientSession`."""

    def list_tools(self, *, params: Any = None) -> Awaitable[Any]: ...
    def list_resources(self, *, params: Any = None) -> Awaitable[Any]: ...
    def list_prompts(self, *, params: Any = None) -> Awaitable[Any]: ...
    def call_tool(self, name: str, arguments: dict[str, Any] | None = None) -> Awaitable[Any]: ...
    def read_resource(self, uri: str) -> Awaitable[Any]: ...
    def get_prompt(self, name: str, arguments: dict[str, str] | None = None) -> Awaitable[Any]: ...


def check_params(method: str, params: str) -> None:
    """As `checked_params`, without making objects of what the parameters hold: that takes a hundred times as long."""
    _checked(method, params, dict[str, msgspec.Raw])


def checked_params(method: str, params: str) -> dict[str, Any]:
    """The parameters (JSON text) of a call.

    Raises:
        BadRequest: no JSON object, or without what the call names. Unsupported: the method.
    """
    return _checked(method, params, dict[str, Any])


def _checked(method: str, params: str, type_: type[dict[str, Any]]) -> dict[str, Any]:
    if method not in LISTS and method not in CALLS:
        raise Unsupported(f"programs cannot call {method[:80]!r} of a tool server: {', '.join([*LISTS, *CALLS])}")
    try:
        found = msgspec.json.decode(params or "{}", type=type_)
    except (msgspec.MsgspecError, RecursionError) as exc:
        raise BadRequest(f"the parameters of {method} are no JSON object: {exc}") from exc
    key = CALLS.get(method)
    if key and not _is_named(found.get(key)):
        raise BadRequest(f"{method} needs {key!r}, a string")
    if not _is_object(found.get("arguments", {})):
        raise BadRequest(f"the arguments of {method} must be a JSON object")
    return found


def _is_named(value: object) -> bool:
    if isinstance(value, msgspec.Raw):
        return bytes(value).startswith(b'"') and bytes(value) != b'""'
    return isinstance(value, str) and bool(value)


def _is_object(value: object) -> bool:
    return bytes(value).startswith(b"{") if isinstance(value, msgspec.Raw) else isinstance(value, dict)


async def ask(session: McpSession, page: Callable[[str], Any], method: str, params: str, most: int) -> str:
    """Make a call; its result as JSON text of at most `most` bytes, a list as an array. `page` makes the parameters of
    a list's next page from its cursor.

    Raises:
        PieError: typed for whatever the server or the way to it did. A tool that failed is a result, not an error.
    """
    given = checked_params(method, params)
    try:
        if method in LISTS:
            result = await _listed(session, page, method, most)
        else:
            result = await _called(session, method, given)
    except PieError:
        raise
    except TimeoutError as exc:
        raise DeadlineExceeded(f"the tool server did not answer {method} in time") from exc
    except asyncio.CancelledError:
        raise
    except Exception as exc:
        raise typed(exc) from exc
    text = msgspec.json.encode(result).decode()
    if len(text) > most:
        raise LimitExceeded(
            f"the answer to {method} has {len(text)} bytes, more than {most} (`mcp_bytes` of the runner)"
        )
    return text


def typed(exc: BaseException) -> PieError:
    """The typed error for what a session raised."""
    error = getattr(exc, "error", None)
    code, said = getattr(error, "code", None), str(getattr(error, "message", exc))[:2000]
    if code in _MALFORMED:
        return BadRequest(f"the tool server refuses: {said}")
    if code in _MISSING:
        return NotFound(f"the tool server says: {said}")
    if code in _UNSUPPORTED:
        return Unsupported(f"the tool server cannot do that: {said}")
    if code in _LATE:
        return DeadlineExceeded(f"the tool server did not answer in time: {said}")
    if code in _CLOSED:
        return Unavailable(f"the tool server has gone: {said}")
    return Unavailable(f"the tool server failed: {said or type(exc).__name__}")


async def _listed(session: McpSession, page: Callable[[str], Any], method: str, most: int) -> list[Any]:
    fetch = {
        "tools/list": session.list_tools,
        "resources/list": session.list_resources,
        "prompts/list": session.list_prompts,
    }[method]
    found: list[Any] = []
    params: Any = None
    for _ in range(MAX_PAGES):
        answer = _plain(await fetch(params=params))
        found += answer.get(LISTS[method], [])
        cursor = answer.get("nextCursor")
        if not cursor or len(msgspec.json.encode(found)) > most:
            return found
        params = page(cursor)
    raise LimitExceeded(f"the answer to {method} has more than {MAX_PAGES} pages")


async def _called(session: McpSession, method: str, given: dict[str, Any]) -> Any:
    if method == "tools/call":
        return _plain(await session.call_tool(given["name"], given.get("arguments") or {}))
    if method == "resources/read":
        return _plain(await session.read_resource(given["uri"]))
    arguments = {
        key: value if isinstance(value, str) else str(value) for key, value in given.get("arguments", {}).items()
    }
    return _plain(await session.get_prompt(given["name"], arguments))


def _plain(result: Any) -> dict[str, Any]:
    return result.model_dump(mode="json", by_alias=True, exclude_none=True)
