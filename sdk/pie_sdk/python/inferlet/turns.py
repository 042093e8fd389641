"""The chat side of a context: which turns its tokens hold, so that the model's template can continue them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from wit_world.imports import chat as raw

from inferlet.errors import host_errors
from inferlet.model import Model


@dataclass(frozen=True)
class _Mark:
    """The context had `length` tokens when it held `turns` turns; `open` when the last one was just cued."""

    length: int
    turns: int
    open: bool


class Turns:
    """Kept in step with a context: each method returns the tokens that its caller appends there."""

    def __init__(self, conversation: raw.Conversation, marks: list[_Mark], reply: list[int]) -> None:
        self._conversation = conversation
        self._marks = marks
        self._reply = reply

    @classmethod
    def start(cls, model: Model, tools: str | None = None) -> Turns:
        """`tools`: a JSON array of those that the model may call."""
        if tools is None:
            return cls(raw.Conversation(model.handle), [], [])
        with host_errors():
            return cls(raw.Conversation.with_tools(model.handle, tools), [], [])

    def fork(self) -> Turns:
        return Turns(self._conversation.fork(), list(self._marks), list(self._reply))

    @property
    def open(self) -> bool:
        """Whether the model's turn was cued and goes on."""
        return bool(self._marks) and self._marks[-1].open

    @property
    def wants_cue(self) -> bool:
        return bool(self._marks) and not self._marks[-1].open

    def message(self, role: str, content: str, length: int) -> list[int]:
        """A complete turn, to be appended to a context of `length` tokens."""
        with host_errors():
            self._tell()
            tokens = self._conversation.message(role, content)
        self._mark(length + len(tokens), False)
        return tokens

    def turn(self, message: str, length: int) -> list[int]:
        """The same for a message in OpenAI's form, as JSON."""
        with host_errors():
            self._tell()
            tokens = self._conversation.turn(message)
        self._mark(length + len(tokens), False)
        return tokens

    def cue(self, length: int) -> list[int]:
        with host_errors():
            self._tell()
            tokens = self._conversation.cue()
        if not self.open:
            self._mark(length + len(tokens), True)
        return tokens

    def seal(self, length: int) -> list[int]:
        with host_errors():
            self._tell()
            tokens = self._conversation.seal()
        if self.open:
            self._mark(length + len(tokens), False)
        return tokens

    def wrote(self, tokens: list[int]) -> None:
        """Tokens joined the context without a turn of their own."""
        if self.open:
            self._reply += tokens

    def truncated(self, length: int, tokens: Callable[[], list[int]]) -> None:
        """The context was cut to `length`; `tokens` is a function that returns what it holds."""
        if not self._marks:
            return
        before = len(self._marks)
        while self._marks and self._marks[-1].length > length:
            self._marks.pop()
        last = self._marks[-1] if self._marks else None
        if len(self._marks) == before and not self.open:
            return
        self._reply = []
        with host_errors():
            if last is None or not last.open:
                self._conversation.rewind(last.turns if last else 0)
                return
            if len(self._marks) < before:
                # The turn had been closed: open it again. Its opening tokens are in the context already.
                self._conversation.rewind(last.turns - 1)
                self._conversation.cue()
        self._reply = tokens()[last.length :]

    def _tell(self) -> None:
        if self._reply:
            reply, self._reply = self._reply, []
            self._conversation.reply(reply)

    def _mark(self, length: int, is_open: bool) -> None:
        self._marks.append(_Mark(length, self._conversation.turns(), is_open))
