"""A grammar for calls of given tools, in a model's own format: text in Lark's notation, as llguidance reads it."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from pie_wire.errors import BadRequest, Unsupported

from pie_runner.decoding.alphabet import Alphabet
from pie_runner.decoding.calls import Tool
from pie_runner.decoding.formats import CallFormat

_PIECES = re.compile("[\U00100000-\U0010fffd]|[^\U00100000-\U0010fffd]+")


def call_grammar(form: CallFormat, alphabet: Alphabet, tools: Sequence[Tool]) -> str:
    """One call or more (one, where the format has no way to write two).

    Raises:
        BadRequest: no tools. Unsupported: the format has nothing to hold on to.
    """
    if not tools:
        raise BadRequest("a grammar for calls needs at least one tool")
    if not form.before:
        raise Unsupported("this model's format of calls cannot be enforced")
    more = "" if form.between is None else f" ({_literal(form.between, alphabet)} call)*"
    lines = [f"start: {_literal(form.before, alphabet)} call{more} {_literal(form.after, alphabet)}".rstrip()]
    lines.append("call: " + " | ".join(f"call_{at}" for at in range(len(tools))))
    for at, tool in enumerate(tools):
        name = json.dumps(tool.name)[1:-1] if form.style == "json" else tool.name
        lines.append(f"call_{at}: {_literal(name, alphabet)} {_literal(form.middle, alphabet)} arguments_{at}")
        schema = {"type": "object", **tool.parameters}
        lines.append(f"arguments_{at}: %json {json.dumps(schema)}")
    return "\n".join(lines) + "\n"


def _literal(text: str, alphabet: Alphabet) -> str:
    parts: list[str] = []
    for piece in _PIECES.findall(text):
        token = alphabet.token(piece)
        parts.append(json.dumps(piece, ensure_ascii=False) if token is None else f"<[{token}]>")
    return " ".join(parts)
