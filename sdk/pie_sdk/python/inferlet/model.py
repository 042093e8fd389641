"""Models and their tokenizers."""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterable
from functools import cached_property
from itertools import accumulate, pairwise

from wit_world.imports import model as raw

from inferlet.errors import host_errors


class Model:
    """A loaded model. `Model.load()` is the default one."""

    def __init__(self, handle: raw.Model) -> None:
        self.handle = handle

    @staticmethod
    def load(name: str = "") -> Model:
        """By one of the names of `runtime.models()`. Raises PieError `not_found`."""
        with host_errors():
            return Model(raw.Model.load(name))

    def __repr__(self) -> str:
        return f"Model({self.name!r})"

    @cached_property
    def name(self) -> str:
        return self.handle.name()

    @cached_property
    def max_context(self) -> int:
        """Positions a context can hold."""
        return self.handle.max_context()

    @cached_property
    def page_size(self) -> int:
        """Tokens to a page of KV cache."""
        return self.handle.page_size()

    @cached_property
    def vocab_size(self) -> int:
        return self.handle.vocab_size()

    @cached_property
    def stop_ids(self) -> list[int]:
        """Ids that end a turn or a text."""
        return self.handle.stop_ids()

    @cached_property
    def eos_ids(self) -> list[int]:
        """Ids that end a text."""
        return self.handle.eos_ids()

    def tokenizer(self) -> Tokenizer:
        return self._tokenizer

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        return Tokenizer(self.handle.tokenizer())


class Tokenizer:
    """Text to ids and back."""

    def __init__(self, handle: raw.Tokenizer) -> None:
        self._handle = handle

    def encode(self, text: str) -> list[int]:
        """Adds no special tokens of its own; those written in the text are recognised."""
        with host_errors():
            return self._handle.encode(text)

    def decode(self, tokens: Iterable[int], skip_special: bool = False) -> str:
        with host_errors():
            return self._handle.decode(list(tokens), skip_special)

    def special_tokens(self) -> tuple[list[int], list[bytes]]:
        """Parallel lists of ids and their bytes."""
        pairs = self._handle.special_tokens()
        return [id_ for id_, _ in pairs], [text.encode() for _, text in pairs]

    @cached_property
    def vocabulary(self) -> list[bytes]:
        """The bytes of every id: none for those that stand for nothing, their text for special tokens."""
        with host_errors():
            packed = base64.b64decode(self._handle.vocabulary())
        [count] = struct.unpack_from("<I", packed)
        lengths = struct.unpack_from(f"<{count}H", packed, 4)
        ends = accumulate(lengths, initial=4 + 2 * count)
        return [packed[start:end] for start, end in pairwise(ends)]

    def detokenizer(self) -> Detokenizer:
        """A fresh incremental decoder."""
        return Detokenizer(self._handle.detokenizer())


class Detokenizer:
    """A stream of ids to text; incomplete characters are held back."""

    def __init__(self, handle: raw.Detokenizer) -> None:
        self._handle = handle

    def feed(self, tokens: Iterable[int]) -> str:
        with host_errors():
            return self._handle.feed(list(tokens))

    def finish(self) -> str:
        """What is held back."""
        return self._handle.finish()
