"""What generated text must spell: sources for `generate`, and matchers for programs that choose tokens themselves."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from wit_world.imports import generation as raw
from wit_world.imports import grammar as matching

from inferlet.errors import host_errors
from inferlet.model import Model


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


class Grammar:
    """A grammar compiled for a model's tokenizer."""

    def __init__(self, source: GrammarSource, model: Model | None = None) -> None:
        """Waits until it is compiled, beside the runner. Raises PieError `bad_request`, `too_large`."""
        with host_errors():
            self._handle = matching.Grammar.compile((model or Model.load()).handle, source.wit)

    def matcher(self) -> Matcher:
        """At its beginning."""
        with host_errors():
            return Matcher(self._handle.matcher())


class Matcher:
    """Where a text stands in a grammar."""

    def __init__(self, handle: matching.Matcher) -> None:
        self._handle = handle

    def accept(self, tokens: Iterable[int]) -> None:
        """Go on with these. Raises PieError `bad_request` at the first that may not follow; those before it stand."""
        with host_errors():
            self._handle.accept(list(tokens))

    def mask(self) -> bytes:
        """Packed bits of the tokens that may follow: for `LogitsRow.mask` and `Sampler.but(mask=...)`."""
        with host_errors():
            return base64.b64decode(self._handle.mask())

    @property
    def complete(self) -> bool:
        """The text so far is a whole one."""
        return self._handle.complete()

    @property
    def terminated(self) -> bool:
        """Nothing may follow, or an end token did."""
        return self._handle.terminated()

    def forced(self) -> list[int]:
        """Tokens that must follow."""
        return self._handle.forced()

    def rollback(self, tokens: int) -> None:
        """Take back the last accepted ones."""
        with host_errors():
            self._handle.rollback(tokens)

    def reset(self) -> None:
        """Back to the beginning."""
        self._handle.reset()

    def fork(self) -> Matcher:
        """Another one at the same place."""
        with host_errors():
            return Matcher(self._handle.fork())

    def release(self) -> None:
        """Free it now."""
        self._handle.__exit__(None, None, None)
