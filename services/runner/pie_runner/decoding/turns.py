"""Tools, calls and results in the messages of a conversation, for templates that know of them and those that do not."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from pie_wire.errors import BadRequest

from pie_runner.decoding.calls import NotACallError, Tool, arguments_of

if TYPE_CHECKING:
    from pie_runner.decoding.derive import Formats
    from pie_runner.models import Model

_OFFER = """You can call these functions. To call one, write a JSON object with its name and arguments between \
<tool_call> and </tool_call>, and nothing else:
<tool_call>
{{"name": "NAME", "arguments": {{"ARGUMENT": "VALUE"}}}}
</tool_call>
The result comes back between <tool_response> and </tool_response>. Answer without a call where none is needed.
<tools>
{tools}
</tools>"""


def adapted(model: Model, messages: Sequence[dict[str, Any]], tools: Sequence[Tool]) -> list[dict[str, Any]]:
    """The messages as this model's template can render them. Tools go through the template where it takes them, else
    into the system message; calls and results likewise into text."""
    formats: Formats = model.formats
    turns = [_turn(model, formats, message) for message in messages]
    if not tools or formats.offers:
        return turns
    offer = _OFFER.format(tools="\n".join(json.dumps(tool.wire["function"], ensure_ascii=False) for tool in tools))
    if turns and turns[0]["role"] == "system":
        first = {**turns[0], "content": f"{turns[0]['content']}\n\n{offer}"}
        return [first, *turns[1:]]
    return [{"role": "system", "content": offer}, *turns]


def _turn(model: Model, formats: Formats, message: dict[str, Any]) -> dict[str, Any]:
    calls = message.get("tool_calls")
    if calls:
        return _with_calls(model, formats, message, calls)
    if message["role"] == "tool" and not formats.shows_results:
        return {"role": "user", "content": f"<tool_response>\n{message.get('content') or ''}\n</tool_response>"}
    return message


def _with_calls(model: Model, formats: Formats, message: dict[str, Any], calls: Any) -> dict[str, Any]:
    if not isinstance(calls, list):
        raise BadRequest("tool_calls must be an array")
    parsed = [_named(call) for call in cast("list[Any]", calls)]
    content = message.get("content") or ""
    if not formats.shows_calls:
        written = model.alphabet.spell(_written(formats, parsed))
        return {"role": message["role"], "content": f"{content}\n{written}" if content else written}
    as_text = formats.calls.text_arguments
    shown = [
        {
            "type": "function",
            "id": identity,
            "function": {"name": name, "arguments": text if as_text else json.loads(text)},
        }
        for identity, name, text in parsed
    ]
    return {**message, "content": content, "tool_calls": shown}


def _written(formats: Formats, calls: Sequence[tuple[str, str, str]]) -> str:
    form = formats.calls
    between = form.between if form.between is not None else f"{form.after}\n{form.before}"
    return form.before + between.join(f"{name}{form.middle}{text}" for _, name, text in calls) + form.after


def _named(call: Any) -> tuple[str, str, str]:
    """Id, name and arguments (JSON text) of a call in OpenAI's form."""
    fields = cast("dict[str, Any]", call) if isinstance(call, dict) else {}
    inner = fields.get("function")
    function = cast("dict[str, Any]", inner) if isinstance(inner, dict) else fields
    name = function.get("name")
    if not isinstance(name, str) or not name:
        raise BadRequest("each of tool_calls needs a function with a name")
    try:
        text = arguments_of(function.get("arguments"))
    except NotACallError as exc:
        raise BadRequest(f"tool_calls of {name}: {exc}") from exc
    identity = fields.get("id")
    return (identity if isinstance(identity, str) else "call00000", name, text)
