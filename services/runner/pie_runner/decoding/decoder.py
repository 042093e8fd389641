"""The WIT's `decoder`: tokens in; text, reasoning and tool calls out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

from pie_runner.decoding.calls import NotACallError, ToolCall, arguments_of, calls_in
from pie_runner.decoding.json_end import JsonEnd
from pie_runner.detokenizer import Detokenizer
from pie_runner.wasm.hostcall import Case

if TYPE_CHECKING:
    from pie_runner.decoding.derive import Formats
    from pie_runner.models import Model

MAX_CALL = 1 << 20
MAX_CALL_NAME = 256
_CUT = "the answer ended inside the call"


class BadCall(NamedTuple):
    """The WIT's `bad-call`."""

    text: str
    reason: str


Mode = Literal["text", "reasoning", "name", "body", "junk", "behind"]


class Decoder:
    """A state machine over text in which special tokens are characters. `_buffer` holds what is not decided yet."""

    def __init__(self, model: Model, *, reasoning: bool, tools: bool, starts_in_reasoning: bool | None) -> None:
        self._model = model
        formats: Formats = model.formats
        self._alphabet = model.alphabet
        self._calls = formats.calls if tools else None
        self._reasoning = formats.reasoning if reasoning else None
        opens = self._reasoning is not None and self._reasoning.open_at_start
        self._starts_in_reasoning = opens if starts_in_reasoning is None else starts_in_reasoning and reasoning
        self._stop = frozenset(model.stop_ids)
        silent = formats.calls.silent
        trailer = formats.calls.trailer if tools else ""
        self._silent = (*silent, trailer) if trailer else silent
        self.reset()

    def reset(self) -> None:
        """As it was when it was made."""
        self._detokenizer = Detokenizer(self._model.tokenizer)
        self._events: list[Case] = []
        self._buffer = ""
        self._mode: Mode = "text"
        self._text: list[str] = []
        self._thought: list[str] = []
        self._call = ""
        """Text of the call so far, from its opening."""
        self._name = ""
        self._reason = ""
        """Why the call is none."""
        self._json: JsonEnd | None = None
        self._scanned = 0
        self._trim = False
        """Whether white space at the beginning of the text to come is a separator."""
        self._count = 0
        self._ended = False
        if self._starts_in_reasoning:
            self._begin_reasoning()

    def feed(self, tokens: Sequence[int]) -> list[Case]:
        """What these tokens make certain. Tokens behind a stop id are ignored.

        Raises:
            BadRequest: an id outside the vocabulary.
        """
        self._model.tokenizer.check(tokens)
        for token in tokens:
            if self._ended:
                break
            if token in self._stop:
                self._end()
                break
            special = self._alphabet.of_token(token)
            if special is None:
                self._push(self._alphabet.clean(self._detokenizer.feed([token])))
            else:
                self._push(self._alphabet.clean(self._detokenizer.finish()) + special)
        return self._take()

    def finish(self) -> list[Case]:
        """The end, without a stop id."""
        if not self._ended:
            self._end()
        return self._take()

    def close(self) -> None:
        """Nothing to release."""

    def _take(self) -> list[Case]:
        events, self._events = self._events, []
        return events

    def _push(self, text: str) -> None:
        self._buffer += text
        while self._buffer and self._step():
            pass

    def _step(self) -> bool:
        """Decide what can be decided; whether to go on."""
        match self._mode:
            case "text":
                return self._in_text()
            case "reasoning":
                return self._in_reasoning()
            case "name":
                return self._in_name()
            case "body":
                return self._in_body()
            case "junk":
                return self._in_junk()
            case "behind":
                return self._behind_call()

    # -- text

    def _in_text(self) -> bool:
        if self._trim or self._may_be_bare:
            self._buffer = self._trimmed(self._buffer)
            if not self._buffer:
                return False
        if self._may_be_bare and self._buffer.startswith("{"):
            self._begin_call("")
            return True
        markers = self._markers()
        found = [(at, -len(marker), marker) for marker in markers if (at := self._buffer.find(marker)) >= 0]
        if not found:
            keep = _held(self._buffer, markers)
            self._say(self._buffer[: len(self._buffer) - keep])
            self._buffer = self._buffer[len(self._buffer) - keep :]
            return False
        at, _, marker = min(found)
        if _held(self._buffer, [longer for longer in markers if longer.startswith(marker)]) == len(self._buffer) - at:
            self._say(self._buffer[:at])
            self._buffer = self._buffer[at:]
            return False
        self._say(self._buffer[:at])
        self._buffer = self._buffer[at + len(marker) :]
        if self._reasoning is not None and marker == self._reasoning.opening:
            self._begin_reasoning()
        elif self._calls is not None and marker in self._calls.openings:
            self._begin_call(marker)
        return True

    @property
    def _may_be_bare(self) -> bool:
        """Whether a call may stand here without a marker: at the beginning of an answer only."""
        return self._calls is not None and not self._calls.openings and not self._text

    def _trimmed(self, text: str) -> str:
        return text.lstrip(" \n") if self._trim else text.lstrip()

    def _markers(self) -> list[str]:
        markers = list(self._silent)
        if self._reasoning is not None:
            markers.append(self._reasoning.opening)
        if self._calls is not None:
            markers += self._calls.openings
        return [marker for marker in markers if marker]

    def _say(self, text: str) -> None:
        """Text for the user; special tokens in it by themselves."""
        if not text:
            return
        self._trim = False
        start = 0
        for at, character in enumerate(text):
            token = self._alphabet.token(character)
            if token is not None:
                self._say_plain(text[start:at])
                self._events.append(Case("special", token))
                start = at + 1
        self._say_plain(text[start:])

    def _say_plain(self, text: str) -> None:
        if text:
            self._text.append(text)
            self._join("text", text)

    def _join(self, tag: str, text: str) -> None:
        """An event of text, as one with that before it."""
        if self._events and self._events[-1].tag == tag:
            self._events[-1] = Case(tag, f"{self._events[-1].value}{text}")
        else:
            self._events.append(Case(tag, text))

    # -- reasoning

    def _begin_reasoning(self) -> None:
        self._mode = "reasoning"
        self._thought = []
        self._events.append(Case("reasoning-start", None))

    def _in_reasoning(self) -> bool:
        closing = self._reasoning.closing if self._reasoning is not None else "</think>"
        at = self._buffer.find(closing)
        if at < 0:
            keep = _held(self._buffer, [closing])
            self._think(self._buffer[: len(self._buffer) - keep])
            self._buffer = self._buffer[len(self._buffer) - keep :]
            return False
        self._think(self._buffer[:at])
        self._buffer = self._buffer[at + len(closing) :]
        self._end_reasoning()
        return True

    def _think(self, text: str) -> None:
        if text:
            plain = self._alphabet.spell(text)
            self._thought.append(plain)
            self._join("reasoning", plain)

    def _end_reasoning(self) -> None:
        self._events.append(Case("reasoning-end", "".join(self._thought)))
        self._mode, self._trim = "text", True

    # -- calls

    def _begin_call(self, opening: str) -> None:
        self._call = opening
        self._name = self._reason = ""
        self._json, self._scanned = None, 0
        if self._calls is not None and self._calls.style == "named":
            self._mode = "name"
        else:
            self._mode = "body"
            if opening:
                self._events.append(Case("call-start", ""))

    def _in_name(self) -> bool:
        middle = self._calls.middle.strip() if self._calls is not None else ""
        at = self._buffer.find(middle)
        if at < 0:
            if len(self._buffer) > MAX_CALL_NAME + len(middle):
                self._bad("what should be the name of a tool is too long")
                return True
            return False
        self._name = self._alphabet.spell(self._buffer[:at].strip())
        self._call += self._buffer[: at + len(middle)]
        self._buffer = self._buffer[at + len(middle) :]
        if not self._name or len(self._name) > MAX_CALL_NAME:
            self._bad("the call has no name")
            return True
        self._events.append(Case("call-start", self._name))
        self._mode = "body"
        return True

    def _in_body(self) -> bool:
        if self._json is None:
            stripped = self._buffer.lstrip()
            self._call += self._buffer[: len(self._buffer) - len(stripped)]
            self._buffer = stripped
            if not stripped:
                return False
            if stripped[0] not in "{[":
                self._bad("a call is JSON: it begins with a bracket")
                return True
            self._json, self._scanned = JsonEnd(), 0
        end = self._json.find(self._buffer, self._scanned)
        if end is None:
            self._scanned = len(self._buffer)
            if self._scanned > MAX_CALL:
                self._bad(f"a call has at most {MAX_CALL} characters")
                return True
            return False
        body, self._buffer = self._buffer[:end], self._buffer[end:]
        self._json, self._scanned = None, 0
        self._complete(self._alphabet.spell(body), body)
        return True

    def _complete(self, body: str, raw: str) -> None:
        """The JSON of a call is whole."""
        bare = self._calls is not None and not self._calls.openings
        self._mode = "behind"
        try:
            if self._name:
                calls = [ToolCall(f"call-{self._count + 1}", self._name, arguments_of(body))]
            else:
                calls = calls_in(body, self._count + 1)
        except NotACallError as exc:
            if bare:
                self._mode = "text"
                self._say(raw)
            else:
                self._events.append(Case("bad-call", BadCall(self._alphabet.spell(self._call) + body, str(exc))))
            return
        self._count += len(calls)
        self._events += [Case("call", call) for call in calls]

    def _behind_call(self) -> bool:
        """Between a call's JSON and what ends it, or the next one."""
        closing = self._calls.closing if self._calls is not None else ""
        stripped = self._buffer.lstrip(" \n\t\r,;]")
        if not stripped:
            return False
        if closing and stripped.startswith(closing):
            self._buffer = stripped[len(closing) :]
            self._mode, self._trim = "text", True
        elif closing and closing.startswith(stripped):
            return False
        elif stripped.startswith("{") and self._calls is not None and self._calls.style == "json":
            self._buffer = stripped
            self._begin_call("")
        else:
            self._buffer = stripped
            self._mode, self._trim = "text", True
        return True

    def _bad(self, reason: str) -> None:
        """What began like a call is none."""
        self._mode, self._reason = "junk", reason
        self._json, self._scanned = None, 0

    def _in_junk(self) -> bool:
        """All of it goes out as it stands: up to the closing, if the format has one."""
        closing = self._calls.closing if self._calls is not None else ""
        at = self._buffer.find(closing) if closing else len(self._buffer)
        if at < 0 and len(self._buffer) <= MAX_CALL:
            return False
        at = at if at >= 0 else len(self._buffer)
        self._tell_bad(self._buffer[:at])
        self._buffer = self._buffer[at:]
        self._mode = "behind"
        return True

    def _tell_bad(self, text: str) -> None:
        self._events.append(Case("bad-call", BadCall(self._alphabet.spell(self._call + text), self._reason)))

    # -- the end

    def _end(self) -> None:
        self._push(self._alphabet.clean(self._detokenizer.finish()))
        match self._mode:
            case "text":
                self._say("" if self._buffer in self._silent else self._buffer)
            case "reasoning":
                self._think(self._buffer)
                self._end_reasoning()
            case "name" | "body" | "junk":
                if self._call or self._name:
                    self._reason = self._reason or _CUT
                    self._tell_bad(self._buffer)
                else:
                    self._say(self._buffer)
            case "behind":
                pass
        self._buffer = ""
        self._ended = True
        self._events.append(Case("done", "".join(self._text)))


def _held(text: str, markers: Sequence[str]) -> int:
    """Length of the longest end of the text that may be a marker's beginning."""
    longest = max((len(marker) for marker in markers), default=1) - 1
    for length in range(min(longest, len(text)), 0, -1):
        end = text[-length:]
        if any(marker.startswith(end) and len(marker) > length for marker in markers):
            return length
    return 0
