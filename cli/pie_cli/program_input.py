"""From a program's command line to its JSON input."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, cast

from pie_wire.errors import BadField

_NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?")
_WORDS: dict[str, object] = {"true": True, "false": False, "null": None}


def parse_input(arguments: Sequence[str], whole: str = "") -> Any:
    """The input that `arguments` describe; `whole` is the JSON of an input file, which flags add to.

    Raises:
        BadField: an argument that is no flag, or JSON that is none, or cannot be added to.
    """
    base = _json(whole, "the input") if whole.strip() else None
    flags: dict[str, list[Any]] = {}
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--") or len(word) == 2:
            raise BadField(f"{word!r} is not of the form --key value")
        key, equals, value = word[2:].partition("=")
        if not equals and rest and (not rest[0].startswith("--") or len(rest[0]) == 2):
            value, equals = rest.pop(0), "="
        if key == "json":
            if base is not None:
                raise BadField("the whole input was given twice")
            base = _json(value, "--json")
        else:
            flags.setdefault(key.replace("-", "_"), []).append(_value(value) if equals else True)
    folded = {key: values[0] if len(values) == 1 else values for key, values in flags.items()}
    if base is None:
        return folded
    if not folded:
        return base
    if not isinstance(base, dict):
        raise BadField(f"flags can only be added to a JSON object, not to {type(base).__name__}")
    return {**cast("dict[str, Any]", base), **folded}


def _value(text: str) -> Any:
    if text in _WORDS:
        return _WORDS[text]
    return json.loads(text) if _NUMBER.fullmatch(text) else text


def _json(text: str, what: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as exc:
        raise BadField(f"{what} is not valid JSON: {exc}") from exc
