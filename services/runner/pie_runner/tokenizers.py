"""Text to tokens and back, by the `tokenizers` library alone: transformers would cost each runner 1 s and 100 MB."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from pie_wire.errors import BadRequest, TooLarge, Unsupported
from tokenizers import Tokenizer as Backend

INLINE_CHARACTERS = 8192
"""Longer texts are encoded on a worker thread: about 0.3 ms per 1,000 characters."""
INLINE_TOKENS = 4096
"""More are decoded on a worker thread: about 0.2 us each."""

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # one text at a time: its own threads are of no use


class Tokenizer:
    """A model's tokenizer. Thread-safe: the backend is immutable after loading.

    Of the backend's functions only those for batches release the GIL (tokenizers 0.23: `encode` held it for 0.7 s of
    4 MiB of text, while the whole runner stood still), so what may be long goes through them, as a batch of one.
    """

    def __init__(self, source: bytes, vocab_size: int) -> None:
        """`source` is a tokenizer.json; `vocab_size` the model's, which may be larger than the file's.

        Raises:
            Unsupported: the file cannot be read.
        """
        backend: Any = Backend
        try:
            self._backend: Any = backend.from_buffer(source)
        except Exception as exc:  # the library raises bare Exceptions
            raise Unsupported(f"tokenizer.json of the model cannot be read: {exc}") from exc
        self._backend.no_truncation()
        self._backend.no_padding()
        self.vocab_size = vocab_size
        added: dict[int, Any] = self._backend.get_added_tokens_decoder()
        self.special_tokens: list[tuple[int, str]] = sorted(
            (number, token.content) for number, token in added.items() if token.special
        )
        self._silent = frozenset(number for number, _ in self.special_tokens)
        self._known: int = self._backend.get_vocab_size(True)

    def encode(self, text: str, most: int = 0) -> list[int]:
        """Ids of a text; special tokens written in it are recognised, none are added.

        Raises:
            TooLarge: more than `most`, if that is not 0. No list is made of them: a million take 40 ms, in which no
            other thread runs.
        """
        encoded = self._backend.encode_batch_fast([text], add_special_tokens=False)[0]
        if most and len(encoded) > most:
            raise TooLarge(f"the text has {len(encoded)} tokens; at most {most} are encoded at once: do it in parts")
        return encoded.ids

    def decode(self, ids: Sequence[int], *, skip_special: bool) -> str:
        """Text of ids, which must be in the vocabulary (`check`)."""
        if len(ids) > INLINE_TOKENS:
            return self._backend.decode_batch([ids], skip_special_tokens=skip_special)[0]
        return self._backend.decode(ids, skip_special_tokens=skip_special)

    def check(self, ids: Sequence[int]) -> None:
        """Raise BadRequest for an id outside the vocabulary."""
        if ids and (min(ids) < 0 or max(ids) >= self.vocab_size):
            wrong = next(i for i in ids if not 0 <= i < self.vocab_size)
            raise BadRequest(f"token id {wrong} is outside the vocabulary of {self.vocab_size}")

    def is_text(self, number: int) -> bool:
        """Whether an id contributes to text decoded without special tokens."""
        return number < self._known and number not in self._silent

    def id_of(self, token: str) -> int | None:
        """The id of a token by its text."""
        return self._backend.token_to_id(token)
