"""Text in which every special token is one character, so that no spelled-out text can pass for a marker."""

from __future__ import annotations

import re

from pie_runner.tokenizers import Tokenizer

_FIRST = 0x100000
"""Of the private use plane 16; there are 65,534 in it."""
_PRIVATE = re.compile("[\U00100000-\U0010fffd]")


class Alphabet:
    """The special tokens of one tokenizer as characters."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        known = tokenizer.special_tokens[:0xFFFE]
        self._characters = {number: chr(_FIRST + at) for at, (number, _) in enumerate(known)}
        self._numbers = {character: number for number, character in self._characters.items()}
        self._spelling = {character: text for (_, text), character in zip(known, self._numbers, strict=True)}
        self._by_text = {text: character for character, text in self._spelling.items() if text}
        texts = sorted(self._by_text, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, texts))) if texts else None

    def of_token(self, number: int) -> str | None:
        """The character of a special token; None for any other."""
        return self._characters.get(number)

    def token(self, character: str) -> int | None:
        """The special token that a character stands for."""
        return self._numbers.get(character)

    def mark(self, text: str) -> str:
        """A template's text, with the special tokens written in it as characters."""
        return self._pattern.sub(lambda found: self._by_text[found[0]], text) if self._pattern else text

    def spell(self, text: str) -> str:
        """The reverse of `mark`."""
        return _PRIVATE.sub(lambda found: self._spelling.get(found[0], ""), text)

    def clean(self, text: str) -> str:
        """A model's own text, in which no character may pass for a special token."""
        return _PRIVATE.sub("\ufffd", text)
