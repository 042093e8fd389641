"""A conversation that grows turn by turn, consistent with rendering all of it at once.

The host keeps the messages and remembers how much of the rendered text it has returned. A turn renders the whole
conversation and returns what follows. What the model wrote stands as it is: for rendering, its last reply is replaced
by a marker that no text contains, and only what the template puts behind the marker matters from then on.

      <|user|>hi<|end|><|assistant|>  MARKER  <|end|><|user|>and?<|end|><|assistant|>
                                    ^ anchor  |---- returned ----|--- next delta ---|

The marker keeps the template's own clean-up (trimming, stripping of reasoning) away from what stands. Tokens of a delta
are encoded on their own: chat templates put special tokens at turn borders, where tokenizers split anyway.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from pie_wire.errors import BadRequest, PieError, TooLarge

from pie_runner.decoding.calls import Tool
from pie_runner.decoding.turns import adapted
from pie_runner.models import Model

_MARKER = "\ue000reply\ue001"
MAX_TURNS = 4096


@dataclass(frozen=True)
class _State:
    """Everything, immutable: forks and rewinds share it."""

    messages: tuple[dict[str, Any], ...] = ()
    anchor: int | None = None
    """Index of the last message that the model wrote: rendering starts behind it."""
    returned: str = ""
    """Text given out since the anchor (or the start)."""
    open: bool = False
    """After `cue`: the assistant's turn goes on."""
    reply: tuple[int, ...] = ()
    held: int = 0
    """Last turns that could not be given out yet."""


class Conversation:
    """The WIT's `conversation`, in text: the host function encodes what these methods return."""

    def __init__(self, model: Model, states: Sequence[_State] = (_State(),), tools: Sequence[Tool] = ()) -> None:
        self.model = model
        self._tools = tools
        self._template = model.template
        self.weight = 0
        """How much has been said, about; for whoever decides where to render it."""
        self._states = list(states)
        """`_states[n]`: as it was when turn n + 1 began; the last one is now."""

    @property
    def turns(self) -> int:
        """Turns so far, an open one included."""
        state = self._now
        return len(state.messages) + (1 if state.open else 0)

    def message(self, role: str, content: str) -> str:
        """Add a turn; returns the text to append, empty while the turn is held back."""
        return self.turn({"role": role, "content": content})

    def turn(self, message: dict[str, Any]) -> str:
        """The same for a message with more than a role and a text: calls of tools, a tool's result.

        Raises:
            BadRequest: calls that are none.
        """
        adapted(self.model, [message], ())
        base = self._closed()
        if len(base.messages) >= MAX_TURNS:
            raise TooLarge(f"a conversation has at most {MAX_TURNS} turns: start a new one")
        state = replace(base, messages=(*base.messages, message), held=base.held + 1)
        self._begin()
        try:
            text = self._behind(state, cue=False)
        except BadRequest:
            return self._hold(state)
        if not text.startswith(state.returned) or text == state.returned or not self._is_stable(state, text):
            return self._hold(state)
        return self._give(replace(state, held=0), text)

    def cue(self) -> str:
        """Open the assistant's turn.

        Raises:
            BadRequest: the template refuses the conversation.
        """
        if self._now.open and not self._now.reply:
            return ""
        state = self._closed()
        text = self._behind(state, cue=True)
        self._begin()
        return self._give(replace(state, open=True, reply=(), held=0), text)

    def reply(self, tokens: Sequence[int]) -> None:
        """Tokens were appended after `cue`.

        Raises:
            BadRequest: no turn is open. TooLarge: more than a context holds.
        """
        state = self._now
        if not state.open:
            raise BadRequest("no assistant turn is open: call cue first")
        if len(state.reply) + len(tokens) > self.model.facts.max_context:
            raise TooLarge(f"a reply has at most {self.model.facts.max_context} tokens, as a context has")
        self._set(replace(state, reply=(*state.reply, *tokens)))

    def seal(self) -> str:
        """Close the assistant's turn; returns its terminator."""
        if not self._now.open:
            return ""
        state = self._closed()
        text = self._behind(state, cue=False)
        return self._give(state, text)

    def rewind(self, turns: int) -> None:
        """Forget all turns after the first `turns`, and a held back one.

        Raises:
            BadRequest: there are fewer turns.
        """
        if turns > self.turns:
            raise BadRequest(f"cannot rewind to {turns} turns: there are {self.turns}")
        if turns < self.turns:
            del self._states[turns + 1 :]
        held = self._now.held
        if held:
            del self._states[len(self._states) - held :]

    def fork(self) -> Conversation:
        """An independent copy."""
        copy = Conversation(self.model, self._states, self._tools)
        copy.weight = self.weight
        return copy

    def close(self) -> None:
        """Nothing to release."""

    @property
    def _now(self) -> _State:
        return self._states[-1]

    def _set(self, state: _State) -> None:
        self._states[-1] = state

    def _begin(self) -> None:
        self._states.append(self._states[-1])

    def _give(self, state: _State, text: str) -> str:
        self._set(replace(state, returned=text))
        return text[_common(state.returned, text) :]

    def _hold(self, state: _State) -> str:
        self._set(state)
        return ""

    def _closed(self) -> _State:
        """Now, with an open assistant turn turned into a message."""
        state = self._now
        if not state.open:
            return state
        written = self.model.tokenizer.decode(state.reply, skip_special=True)
        messages = (*state.messages, {"role": "assistant", "content": written})
        return replace(state, messages=messages, anchor=len(state.messages), returned="", open=False, reply=())

    def _behind(self, state: _State, *, cue: bool) -> str:
        """Rendered text behind the anchor."""
        messages = [dict(message) for message in state.messages]
        if state.anchor is not None:
            messages[state.anchor] = {"role": "assistant", "content": _MARKER}
        tools = [tool.wire for tool in self._tools] if self._tools and self.model.formats.offers else None
        text = self._template.render(adapted(self.model, messages, self._tools), cue=cue, tools=tools)
        if state.anchor is None:
            return text
        _, found, tail = text.rpartition(_MARKER)
        if not found:
            raise BadRequest("the model's chat template leaves out the assistant's reply: use chat.render instead")
        return tail

    def _is_stable(self, state: _State, text: str) -> bool:
        """Whether the text stays the same once another turn follows."""
        role = "assistant" if state.messages[-1]["role"] == "user" else "user"
        probe = replace(state, messages=(*state.messages, {"role": role, "content": "x"}))
        try:
            return self._behind(probe, cue=False).startswith(text)
        except PieError:
            return True


def _common(before: str, after: str) -> int:
    """Length of the common beginning."""
    if after.startswith(before):
        return len(before)
    return next(i for i, (a, b) in enumerate(zip(before + "\0", after + "\1", strict=False)) if a != b)
