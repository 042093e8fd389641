"""How a model writes tool calls and reasoning, in texts whose special tokens are characters (`Alphabet`)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from pie_runner.decoding.alphabet import Alphabet

Source = Literal["template", "family", "fallback"]
_JSON_BEGINS = re.compile(r"[\[{]")
_JSON_ENDS = re.compile(r"^[\]}\s]*")


@dataclass(frozen=True)
class CallFormat:
    """One call is `before NAME middle ARGUMENTS after`; `between` stands for `after` and `before` between two calls.

    Where `before` has the beginning of a JSON object, a call is that object (style `json`), whatever the order of its
    keys; else a name and the arguments stand apart (style `named`).
    """

    source: Source
    before: str
    middle: str
    after: str
    between: str | None = None
    """None: one answer has one call."""
    text_arguments: bool = False
    """The template wants arguments as JSON text."""
    silent: tuple[str, ...] = ()
    """Markers that mean nothing to a reader."""

    @property
    def style(self) -> Literal["json", "named"]:
        return "json" if _JSON_BEGINS.search(self.before) else "named"

    @property
    def openings(self) -> tuple[str, ...]:
        """What a call begins with: none where it is bare JSON."""
        first = self._head(self.before)
        later = self._head(self._behind_closing)
        return tuple(dict.fromkeys(text for text in (first, later) if text and text != ","))

    @property
    def closing(self) -> str:
        """What ends a call; may be empty."""
        after = self._tail(self.after)
        if self.between is None:
            return after
        return _common(after, self._tail(self.between)).strip()

    @property
    def trailer(self) -> str:
        """What follows the last call's closing."""
        return self._tail(self.after)[len(self.closing) :].strip()

    @property
    def _behind_closing(self) -> str:
        return "" if self.between is None else self._tail(self.between)[len(self.closing) :]

    def _head(self, text: str) -> str:
        found = _JSON_BEGINS.search(text)
        return (text[: found.start()] if found else text).strip()

    def _tail(self, text: str) -> str:
        return (_JSON_ENDS.sub("", text) if self.style == "json" else text).strip()


@dataclass(frozen=True)
class Reasoning:
    """Markers around what a model thinks before it answers."""

    opening: str
    closing: str
    open_at_start: bool = False
    """The generation prompt itself opens it."""


FALLBACK = CallFormat(
    source="fallback",
    before='<tool_call>\n{"name": "',
    middle='", "arguments": ',
    after="}\n</tool_call>",
    between='}\n</tool_call>\n<tool_call>\n{"name": "',
)
"""Where neither the template nor a family says how: a form that many models were trained on."""


def harmony(alphabet: Alphabet) -> CallFormat:
    """gpt-oss: channels, with calls addressed to `functions.NAME`."""
    mark = alphabet.mark
    silent = ("<|start|>assistant", "<|channel|>final<|message|>", "<|channel|>commentary<|message|>", "<|end|>")
    return CallFormat(
        source="family",
        before=mark("<|channel|>commentary to=functions."),
        middle=mark(" <|constrain|>json<|message|>"),
        after=mark("<|call|>"),
        silent=tuple(map(mark, silent)),
    )


def deepseek(alphabet: Alphabet) -> CallFormat:
    """DeepSeek V3 and R1: each call a fenced JSON block."""
    mark = alphabet.mark
    call = "<｜tool▁call▁begin｜>function<｜tool▁sep｜>"  # noqa: RUF001 - the tokens are spelled so
    end = "\n```<｜tool▁call▁end｜>"  # noqa: RUF001
    return CallFormat(
        source="family",
        before=mark("<｜tool▁calls▁begin｜>" + call),  # noqa: RUF001
        middle="\n```json\n",
        after=mark(end + "<｜tool▁calls▁end｜>"),  # noqa: RUF001
        between=mark(end + "\n" + call),
        text_arguments=True,
    )


REASONING = (
    ("<|channel|>", "<|channel|>analysis<|message|>", "<|end|>"),
    ("<think>", "<think>", "</think>"),
    ("[THINK]", "[THINK]", "[/THINK]"),
    ("<seed:think>", "<seed:think>", "</seed:think>"),
    ("<|START_THINKING|>", "<|START_THINKING|>", "<|END_THINKING|>"),
    ("<reasoning>", "<reasoning>", "</reasoning>"),
)
"""Known markers, behind what tells them: the first one that is in the model's template or among its tokens."""


def _common(a: str, b: str) -> str:
    for at, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return a[:at]
    return a[: len(b)]
