"""Reads a model's formats off its chat template: renders a conversation with known calls and looks where they went."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pie_wire.errors import PieError

from pie_runner.decoding.alphabet import Alphabet
from pie_runner.decoding.formats import FALLBACK, REASONING, CallFormat, Reasoning, deepseek, harmony

if TYPE_CHECKING:
    from pie_runner.templates import ChatTemplate
    from pie_runner.tokenizers import Tokenizer

_NAMES = ("probe_first", "probe_second")
_ARGUMENTS = re.compile(r'\{\s*"probe_key"\s*:\s*"probe_value"\s*\}')
_CONTENT = "\ue000content\ue001"
_USER = {"role": "user", "content": "x"}
_TOOL = {
    "type": "function",
    "function": {
        "name": _NAMES[0],
        "description": "d",
        "parameters": {"type": "object", "properties": {"probe_key": {"type": "string"}}},
    },
}


@dataclass(frozen=True)
class Formats:
    """All that is known of a model's way of writing."""

    calls: CallFormat
    reasoning: Reasoning | None
    offers: bool
    """The template writes the tools that it is given."""
    shows_calls: bool
    """The template writes the calls of an assistant's message."""
    shows_results: bool
    """The template knows calls, and the role `tool` that answers them. (One that writes whatever role it is given does
    not mean that its model was taught that role.)"""


def derive(template: ChatTemplate | None, tokenizer: Tokenizer, alphabet: Alphabet, stop: Iterable[int]) -> Formats:
    """What the template (if there is one) says, then what is known of the model's family, then the fallback."""
    if template is None:
        return Formats(FALLBACK, None, offers=False, shows_calls=False, shows_results=False)
    reasoning = _reasoning(template, tokenizer, alphabet)
    ends = {character for number in stop if (character := alphabet.of_token(number)) is not None}
    read = _calls(template, alphabet, ends, reasoning)
    family = _family(template, tokenizer, alphabet)
    written = _render(template, [_USER, _assistant(1, as_text=family is not None and family.text_arguments)])
    return Formats(
        calls=family or read or FALLBACK,
        reasoning=reasoning,
        offers=_NAMES[0] in _render(template, [_USER], cue=True, tools=[_TOOL]),
        shows_calls=read is not None or (family is not None and _NAMES[0] in written),
        shows_results=read is not None
        and (
            _CONTENT in _render(template, [_USER, _assistant(1), _result()])
            or _CONTENT in _render(template, [_USER, _assistant(1, as_text=True), _result()])
        ),
    )


def _family(template: ChatTemplate, tokenizer: Tokenizer, alphabet: Alphabet) -> CallFormat | None:
    """Families whose templates do not show the form the model itself writes."""
    if tokenizer.id_of("<|channel|>") is not None and tokenizer.id_of("<|call|>") is not None:
        return harmony(alphabet)
    if tokenizer.id_of("<｜tool▁sep｜>") is not None:  # noqa: RUF001 - the token is spelled so
        return deepseek(alphabet)
    return None


def _reasoning(template: ChatTemplate, tokenizer: Tokenizer, alphabet: Alphabet) -> Reasoning | None:
    for sign, opening, closing in REASONING:
        if sign in template.source or tokenizer.id_of(sign) is not None:
            cued = _render(template, [_USER], cue=True).rstrip()
            return Reasoning(alphabet.mark(opening), alphabet.mark(closing), cued.endswith(opening))
    return None


def _calls(
    template: ChatTemplate, alphabet: Alphabet, ends: set[str], reasoning: Reasoning | None
) -> CallFormat | None:
    for as_text in (False, True):
        one = _parts(template, alphabet, ends, reasoning, count=1, as_text=as_text)
        if one is None:
            continue
        before, middles, after = one
        middle = middles[0]
        two = _parts(template, alphabet, ends, reasoning, count=2, as_text=as_text)
        between = None
        if two is not None and two[0] == before and two[1][0] == middle and two[1][-1].endswith(middle):
            between = _between(two, middle)
        if not before.strip() or (not re.search(r"[\[{]", before) and not middle.strip()):
            return None
        return CallFormat("template", before, middle, after, between, as_text)
    return None


def _between(two: tuple[str, list[str], str], middle: str) -> str | None:
    """From the first call's arguments to the second one's name."""
    whole = two[1][1]
    text = whole[: len(whole) - len(middle)] if middle else whole
    return text or None


_Parts = tuple[str, list[str], str]


def _parts(
    template: ChatTemplate,
    alphabet: Alphabet,
    ends: set[str],
    reasoning: Reasoning | None,
    *,
    count: int,
    as_text: bool,
) -> _Parts | None:
    """Text before the first name, between names and arguments in turn, and behind the last arguments."""
    text = alphabet.mark(_render(template, [_USER, _assistant(count, as_text=as_text)]))
    plain = alphabet.mark(_render(template, [_USER, {"role": "assistant", "content": _CONTENT}]))
    head, found, tail = plain.partition(_CONTENT)
    start = _common(text, head) if found else 0
    at = text.find(_NAMES[0], start)
    if at < 0:
        return None
    before = _behind_reasoning(text[start:at], reasoning).lstrip()
    middles: list[str] = []
    for number in range(count):
        named = text.find(_NAMES[number], at)
        match = _ARGUMENTS.search(text, named if named >= 0 else at)
        if named < 0 or match is None:
            return None
        name_end = named + len(_NAMES[number])
        if number:
            middles.append(text[at:named] + text[name_end : match.start()])
        else:
            middles.append(text[name_end : match.start()])
        at = match.end()
    return before, middles, _until_end(text[at:], tail, ends)


def _behind_reasoning(text: str, reasoning: Reasoning | None) -> str:
    """Some templates write an empty thought before the last answer."""
    return text.rpartition(reasoning.closing)[2] if reasoning is not None else text


def _until_end(text: str, tail: str, ends: set[str]) -> str:
    """Up to the end of the turn."""
    stop = min((at for end in ends if (at := text.find(end)) >= 0), default=len(text))
    if stop < len(text):
        return text[:stop]
    return text.removesuffix(tail) if tail else text


def _assistant(count: int, *, as_text: bool = False) -> dict[str, Any]:
    arguments = {"probe_key": "probe_value"}
    calls = [
        {
            "type": "function",
            "id": f"call{number:05d}",
            "function": {"name": _NAMES[number], "arguments": json.dumps(arguments) if as_text else arguments},
        }
        for number in range(count)
    ]
    return {"role": "assistant", "content": "", "tool_calls": calls}


def _result() -> dict[str, Any]:
    return {"role": "tool", "name": _NAMES[0], "tool_call_id": "call00000", "content": _CONTENT}


def _render(
    template: ChatTemplate, messages: list[dict[str, Any]], *, cue: bool = False, tools: list[Any] | None = None
) -> str:
    """The text; nothing where the template refuses."""
    try:
        return template.render(messages, cue=cue, tools=tools)
    except PieError:
        return ""


def _common(a: str, b: str) -> int:
    return next((at for at, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
