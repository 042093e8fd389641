"""What generated text must spell."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from wit_world.imports import generation as raw


@dataclass(frozen=True)
class JsonSchema:
    """JSON that this schema allows: a dict, or the schema as text."""

    schema: dict[str, Any] | str

    @property
    def wit(self) -> raw.GrammarSource:
        text = self.schema if isinstance(self.schema, str) else json.dumps(self.schema)
        return raw.GrammarSource(raw.GrammarKind.JSON_SCHEMA, text)


@dataclass(frozen=True)
class Regex:
    """Text that matches a regular expression from begin to end (Rust's syntax, no look-around)."""

    pattern: str

    @property
    def wit(self) -> raw.GrammarSource:
        return raw.GrammarSource(raw.GrammarKind.REGEX, self.pattern)


@dataclass(frozen=True)
class Lark:
    """A grammar in Lark's notation."""

    text: str

    @property
    def wit(self) -> raw.GrammarSource:
        return raw.GrammarSource(raw.GrammarKind.LARK, self.text)


@dataclass(frozen=True)
class Ebnf:
    """A grammar in the EBNF of llama.cpp (GBNF, rule `root`)."""

    text: str

    @property
    def wit(self) -> raw.GrammarSource:
        return raw.GrammarSource(raw.GrammarKind.EBNF, self.text)


GrammarSource = JsonSchema | Regex | Lark | Ebnf
