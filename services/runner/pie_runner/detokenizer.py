"""Incremental decoding: text grows by whole characters.

The window technique of text-generation-inference: a few tokens that were already emitted are decoded again with the new
ones, because some tokenizers decode a token differently at the start of a text; what follows the old text is new. Text
that ends in U+FFFD may be an incomplete character and is held back.
"""

from __future__ import annotations

from collections.abc import Sequence

from pie_runner.tokenizers import Tokenizer

_REPLACEMENT = "\ufffd"
MAX_HELD = 256
"""Ids held back without a whole character (never by real text): beyond this, what cannot change any more is let go."""


class Detokenizer:
    """The WIT's `detokenizer`; pieces joined are `decode(all ids, skip_special=True)`."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._window: list[int] = []
        self._emitted_ids = 0
        """Ids of the window whose text is out."""
        self._emitted = ""
        """That text."""

    def feed(self, ids: Sequence[int]) -> str:
        """Take ids, return the whole characters they complete.

        Raises:
            BadRequest: an id outside the vocabulary.
        """
        self._tokenizer.check(ids)
        self._window.extend(i for i in ids if self._tokenizer.is_text(i))
        text = self._decode(self._window)
        if text.endswith(_REPLACEMENT) or len(text) < len(self._emitted):
            return self._overflow(text) if len(self._window) - self._emitted_ids > MAX_HELD else ""
        new = text[len(self._emitted) :]
        if new:
            del self._window[: self._emitted_ids]
            self._emitted_ids = len(self._window)
            self._emitted = self._decode(self._window)
        return new

    def finish(self) -> str:
        """What is held back; the decoder is then fresh again."""
        new = self._decode(self._window)[len(self._emitted) :]
        self._window.clear()
        self._emitted_ids, self._emitted = 0, ""
        return new

    def close(self) -> None:
        """Nothing to release."""

    def _decode(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode(ids, skip_special=True)

    def _overflow(self, text: str) -> str:
        stable = self._decode(self._window[:-4])
        if not text.startswith(stable):
            return ""
        new = stable[len(self._emitted) :]
        self._emitted_ids, self._emitted = len(self._window) - 4, stable
        return new
