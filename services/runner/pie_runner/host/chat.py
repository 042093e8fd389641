"""Chat turns by the model's own template."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec
from pie_wire.errors import BadRequest, TooLarge

from pie_runner.conversation import MAX_TURNS, Conversation
from pie_runner.decoding.calls import tools_of
from pie_runner.decoding.turns import adapted
from pie_runner.host import checks
from pie_runner.host.methods import method, reading
from pie_runner.host.model import ModelHandle
from pie_runner.host.offloaded import now_or_offloaded, tokens_of
from pie_runner.tokenizers import INLINE_CHARACTERS
from pie_runner.wasm.hostcall import HostFunction, Pending

if TYPE_CHECKING:
    from pie_runner.models import Model
    from pie_runner.wasm.fiber import Fiber

MAX_ROLE = 64
TURN_WEIGHT = 100
"""Characters that take as long as a turn's part of a template."""
TOKEN_WEIGHT = 4


def render(fiber: Fiber, handle: ModelHandle, messages: str, tools: str | None, cue: bool) -> list[int] | Pending:
    """Tokens of a whole conversation."""
    checks.text(messages, "messages", checks.MAX_MESSAGES)
    checks.text(tools or "", "tools", checks.MAX_TOOLS)
    work = partial(_rendered, handle.model, messages, tools, cue)
    return now_or_offloaded(fiber, work, is_short=len(messages) + len(tools or "") <= INLINE_CHARACTERS)


def _rendered(model: Model, messages: str, tools: str | None, cue: bool) -> list[int]:
    turns = _list_of_objects(messages, "messages")
    if len(turns) > MAX_TURNS:
        raise TooLarge(f"a conversation has at most {MAX_TURNS} turns, not {len(turns)}")
    for turn in turns:
        if not isinstance(turn.get("role"), str):
            raise BadRequest("each message needs a role: a string")
    offered = [] if tools is None else tools_of(tools)
    schemas = [tool.wire for tool in offered] if offered and model.formats.offers else None
    return tokens_of(model.tokenizer, model.template.render(adapted(model, turns, offered), cue=cue, tools=schemas))


def create(_fiber: Fiber, handle: ModelHandle, tools: str) -> Conversation:
    """A conversation in which the model may call tools."""
    return Conversation(handle.model, tools=tools_of(checks.text(tools, "tools", checks.MAX_TOOLS)))


def turn(fiber: Fiber, talk: Conversation, text: str) -> list[int] | Pending:
    """Add a turn given as a message."""
    try:
        fields = msgspec.json.decode(checks.text(text, "the message", checks.MAX_MESSAGES), type=dict[str, Any])
    except (msgspec.MsgspecError, RecursionError) as exc:
        raise BadRequest(f"the message must be a JSON object: {exc}") from exc
    role = fields.get("role")
    if not isinstance(role, str) or len(role) > MAX_ROLE:
        raise BadRequest(f"the message needs a role: a string of at most {MAX_ROLE} characters")
    return _spoken(fiber, talk, lambda: talk.turn({"content": "", **fields}), len(text))


def message(fiber: Fiber, talk: Conversation, role: str, content: str) -> list[int] | Pending:
    """Add a turn."""
    checks.text(role, "the role", MAX_ROLE)
    checks.text(content, "the message")
    return _spoken(fiber, talk, lambda: talk.message(role, content), len(content))


def cue(fiber: Fiber, talk: Conversation) -> list[int] | Pending:
    """Open the assistant's turn."""
    return _spoken(fiber, talk, talk.cue)


def seal(fiber: Fiber, talk: Conversation) -> list[int] | Pending:
    """Close the assistant's turn."""
    return _spoken(fiber, talk, talk.seal)


def reply(_fiber: Fiber, talk: Conversation, tokens: Sequence[int]) -> None:
    """Tokens were appended after `cue`."""
    plain = checks.plain(tokens)
    talk.model.tokenizer.check(plain)
    talk.reply(plain)
    talk.weight += TOKEN_WEIGHT * len(plain)


def _spoken(fiber: Fiber, talk: Conversation, speak: Callable[[], str], size: int = 0) -> list[int] | Pending:
    """Tokens of what a turn adds. All of the conversation is rendered for it: if it is long, beside the loop."""
    talk.weight += TURN_WEIGHT + size

    def work() -> list[int]:
        return tokens_of(talk.model.tokenizer, speak())

    return now_or_offloaded(fiber, work, is_short=talk.weight <= INLINE_CHARACTERS)


def _list_of_objects(text: str, what: str) -> list[dict[str, Any]]:
    try:
        return msgspec.json.decode(text, type=list[dict[str, Any]])
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
