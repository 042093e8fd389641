"""Chat turns by the model's own template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
from pie_wire.errors import BadRequest

from pie_runner.conversation import Conversation
from pie_runner.decoding.calls import tools_of
from pie_runner.decoding.turns import adapted
from pie_runner.host import checks
from pie_runner.host.methods import method, reading
from pie_runner.host.model import ModelHandle
from pie_runner.host.offloaded import encoded
from pie_runner.wasm.hostcall import HostFunction, Pending

if TYPE_CHECKING:
    from pie_runner.wasm.fiber import Fiber

MAX_ROLE = 64


def render(fiber: Fiber, handle: ModelHandle, messages: str, tools: str | None, cue: bool) -> list[int] | Pending:
    """Tokens of a whole conversation."""
    turns = _list_of_objects(messages, "messages")
    for turn in turns:
        if not isinstance(turn.get("role"), str):
            raise BadRequest("each message needs a role: a string")
    offered = [] if tools is None else tools_of(checks.text(tools, "tools"))
    model = handle.model
    schemas = [tool.wire for tool in offered] if offered and model.formats.offers else None
    text = model.template.render(adapted(model, turns, offered), cue=cue, tools=schemas)
    return encoded(fiber, handle.model.tokenizer, text)


def create(_fiber: Fiber, handle: ModelHandle, tools: str) -> Conversation:
    """A conversation in which the model may call tools."""
    return Conversation(handle.model, tools=tools_of(checks.text(tools, "tools")))


def turn(fiber: Fiber, talk: Conversation, text: str) -> list[int] | Pending:
    """Add a turn given as a message."""
    try:
        fields = msgspec.json.decode(checks.text(text, "the message"), type=dict[str, Any])
    except (msgspec.MsgspecError, RecursionError) as exc:
        raise BadRequest(f"the message must be a JSON object: {exc}") from exc
    role = fields.get("role")
    if not isinstance(role, str) or len(role) > MAX_ROLE:
        raise BadRequest(f"the message needs a role: a string of at most {MAX_ROLE} characters")
    return _encoded(fiber, talk, talk.turn({"content": "", **fields}))


def message(fiber: Fiber, talk: Conversation, role: str, content: str) -> list[int] | Pending:
    """Add a turn."""
    checks.text(role, "the role", MAX_ROLE)
    return _encoded(fiber, talk, talk.message(role, checks.text(content, "the message")))


def cue(fiber: Fiber, talk: Conversation) -> list[int] | Pending:
    """Open the assistant's turn."""
    return _encoded(fiber, talk, talk.cue())


def seal(fiber: Fiber, talk: Conversation) -> list[int] | Pending:
    """Close the assistant's turn."""
    return _encoded(fiber, talk, talk.seal())


def reply(_fiber: Fiber, talk: Conversation, tokens: Sequence[int]) -> None:
    """Tokens were appended after `cue`."""
    plain = checks.plain(tokens)
    talk.model.tokenizer.check(plain)
    talk.reply(plain)


def _encoded(fiber: Fiber, talk: Conversation, text: str) -> list[int] | Pending:
    return encoded(fiber, talk.model.tokenizer, text) if text else []


def _list_of_objects(text: str, what: str) -> list[dict[str, Any]]:
    try:
        return msgspec.json.decode(checks.text(text, what), type=list[dict[str, Any]])
    except (msgspec.MsgspecError, RecursionError) as exc:
        raise BadRequest(f"{what} must be a JSON array of objects: {exc}") from exc


FUNCTIONS: Mapping[str, HostFunction] = {
    "render": render,
    "[constructor]conversation": reading(ModelHandle, lambda handle: Conversation(handle.model)),
    "[static]conversation.with-tools": create,
    "[method]conversation.message": message,
    "[method]conversation.turn": turn,
    "[method]conversation.cue": cue,
    "[method]conversation.reply": reply,
    "[method]conversation.seal": seal,
    "[method]conversation.turns": reading(Conversation, lambda talk: talk.turns),
    "[method]conversation.rewind": method(Conversation.rewind),
    "[method]conversation.fork": method(Conversation.fork),
}
