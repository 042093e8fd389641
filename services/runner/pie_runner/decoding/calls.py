"""Tool calls as values: out of JSON that a model wrote, and the tools that a program offers."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, cast

import msgspec
from pie_wire.errors import BadRequest

MAX_TOOLS = 128


class ToolCall(NamedTuple):
    """The WIT's `tool-call`."""

    id: str
    name: str
    arguments: str


class NotACallError(ValueError):
    """JSON, or nearly, that is no call; the text says why."""


class Tool(NamedTuple):
    """One tool that a program offers."""

    name: str
    description: str
    parameters: dict[str, Any]

    @property
    def wire(self) -> dict[str, Any]:
        """In the envelope that chat templates expect."""
        described = {"name": self.name, "description": self.description, "parameters": self.parameters}
        return {"type": "function", "function": described}


def tools_of(text: str) -> list[Tool]:
    """Tools of a JSON array: plain (`name`, `description`, `parameters`), in OpenAI's envelope, or as MCP lists them.

    Raises:
        BadRequest: not such an array, a tool without a name, two of one name.
    """
    try:
        items = msgspec.json.decode(text, type=list[dict[str, Any]])
    except (msgspec.MsgspecError, RecursionError) as exc:
        raise BadRequest(f"tools must be a JSON array of objects: {exc}") from exc
    if len(items) > MAX_TOOLS:
        raise BadRequest(f"at most {MAX_TOOLS} tools are allowed, not {len(items)}")
    tools = [_tool(item) for item in items]
    names = [tool.name for tool in tools]
    if len(set(names)) < len(names):
        raise BadRequest("two tools have the same name")
    return tools


def _tool(item: Mapping[str, Any]) -> Tool:
    inner = item.get("function")
    fields: Mapping[str, Any] = cast("Mapping[str, Any]", inner) if isinstance(inner, dict) else item
    name, description = fields.get("name"), fields.get("description", "")
    default: Any = {"type": "object", "properties": {}}
    schema: Any = next((fields[key] for key in ("parameters", "inputSchema", "input_schema") if key in fields), default)
    if not isinstance(name, str) or not name or len(name) > 200:
        raise BadRequest("each tool needs a name of 1 to 200 characters")
    if not isinstance(schema, dict) or not isinstance(description, str):
        raise BadRequest(f"tool {name}: parameters must be a JSON Schema object, and the description a string")
    return Tool(name, description, cast("dict[str, Any]", schema))


def calls_in(text: str, number: int) -> list[ToolCall]:
    """The calls of one JSON value, an object or an array of them; `number` is that of the first.

    Raises:
        NotACallError: the text is no JSON, or has no name or arguments that are no object.
    """
    value = _read(text, "")
    items: Iterable[Any] = cast("list[Any]", value) if isinstance(value, list) else [value]
    calls = [_call(item, number + at) for at, item in enumerate(items)]
    if not calls:
        raise NotACallError("an empty list of calls")
    return calls


def arguments_of(value: Any) -> str:
    """Arguments as a JSON object.

    Raises:
        NotACallError: they are something else.
    """
    if isinstance(value, str):
        value = _read(value, "the arguments are ")
    if value is None:
        value = {}
    if not isinstance(value, dict):
        raise NotACallError("the arguments are not a JSON object")
    try:
        return _sound(json.dumps(value, ensure_ascii=False))
    except RecursionError as exc:
        raise NotACallError(f"the arguments are nested too deep: {exc}") from exc


def _read(text: str, what: str) -> Any:
    """A JSON value, with line breaks in strings, as models write them. Raises NotACallError."""
    try:
        return json.loads(text, strict=False, parse_constant=_no_constant)
    except (ValueError, RecursionError) as exc:
        raise NotACallError(f"{what}not valid JSON: {exc}") from exc


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON value")


def _sound(text: str) -> str:
    """Text as programs can be given it: half a surrogate pair, which JSON can spell (`\\ud83d`), becomes U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def _call(item: Any, number: int) -> ToolCall:
    if not isinstance(item, dict):
        raise NotACallError("a call is a JSON object")
    fields = cast("dict[str, Any]", item)
    inner = fields.get("function")
    if isinstance(inner, dict):
        fields = {**fields, **cast("dict[str, Any]", inner)}
    name = fields.get("name", inner)
    if not isinstance(name, str) or not name:
        raise NotACallError("the call has no name")
    found: Any = next((fields[key] for key in ("arguments", "parameters", "args", "input") if key in fields), None)
    identity = fields.get("id")
    named = identity if isinstance(identity, str) and identity else f"call-{number}"
    return ToolCall(_sound(named), _sound(name), arguments_of(found))
