"""A model that says what a script tells it to: same interface, same KV accounting, no weights.

The script is a JSON object:

    {"name": "demo",                    shown as the model's name; default: the file's name
     "tokenizer": "/path/to/folder",    whose tokenizer to use; default: one token per byte
     "max_context": 4096,
     "delay_ms": 0,                     time that every pass takes
     "rules": [{"when": "regex", "replies": ["first", [104, 105], {"logits": [{"65": 2.5}, ...]}]}, ...]}

The first rule whose `when` is found in the text of a context (default: always) speaks. Its replies are said one after
the other: a context that contains the first one entirely, and then something more, gets the second. At a reply's end
comes the end token. What a row answers depends on nothing but the tokens it sees, so that runs, passes, forks and
recomputed contexts agree.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from pie_wire.errors import BadField, NotFound, Unsupported
from tokenizers import Tokenizer

from pie_engine.models import byte_tokenizer
from pie_engine.models.base import ModelInfo, ModelOutput, read_tokenizer_files
from pie_engine.passes.batch import Batch
from pie_engine.passes.device import LoadedAdapter
from pie_engine.passes.outputs import Int32Array
from pie_engine.simulation.slot_memory import SlotMemory

_SURE = 30.0
_PAGE_BYTES = 4096
"""Nominal: pages of a script cost next to nothing, but `kv_memory` should still limit them."""


class LogitsReply(msgspec.Struct, forbid_unknown_fields=True):
    """Per token of the reply, a map from token id to logit; others are impossible. The reply goes on with the
    likeliest."""

    logits: list[dict[str, float]]


class Rule(msgspec.Struct, forbid_unknown_fields=True):
    """See the module's text."""

    replies: list[str | list[int] | LogitsReply]
    when: str = ""


class Script(msgspec.Struct, forbid_unknown_fields=True):
    """See the module's text."""

    rules: list[Rule]
    name: str = ""
    tokenizer: str = ""
    max_context: int = 4096
    delay_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class _Reply:
    tokens: Sequence[int]
    logits: Sequence[Mapping[int, float]] | None


@dataclass(frozen=True, slots=True)
class _Rule:
    when: re.Pattern[str]
    replies: Sequence[_Reply]


class ScriptedModel:
    """`Model` by script."""

    def __init__(self, script: Script, name: str, *, folder: Path | None = None) -> None:
        self._delay = script.delay_ms / 1000.0
        self._folder = folder
        encode: Callable[[str], list[int]] = byte_tokenizer.encode
        self._decode: Callable[[list[int]], str] = byte_tokenizer.decode
        vocab, eos = byte_tokenizer.VOCAB, byte_tokenizer.EOS_IDS
        if folder is not None:
            tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
            encode = lambda text: tokenizer.encode(text, add_special_tokens=False).ids  # noqa: E731
            self._decode = lambda ids: tokenizer.decode(ids, skip_special_tokens=False)
            vocab, eos = tokenizer.get_vocab_size(), _eos_ids(folder, tokenizer)
        self._end = eos[-1]
        self._rules = [_compile(rule, encode, vocab) for rule in script.rules]
        self._memory: SlotMemory | None = None
        digest = hashlib.blake2b(msgspec.json.encode(script), digest_size=16).hexdigest()
        self.info = ModelInfo(
            name=script.name or name,
            fingerprint=f"scripted:{digest}",
            architecture="scripted",
            dtype="none",
            vocab_size=vocab,
            max_context=script.max_context,
            layers=0,
            kv_heads=0,
            head_dim=0,
            eos_ids=eos,
            backend="scripted",
        )

    def allocate(self, pages: int, page_size: int) -> None:
        self._memory = SlotMemory(pages, page_size)

    def page_bytes(self, page_size: int) -> int:
        return _PAGE_BYTES * page_size

    def forward(self, batch: Batch) -> ModelOutput:
        memory = self._memory
        if memory is None:
            raise BadField("the pool has not been allocated; call allocate() before the first pass")
        if self._delay:
            time.sleep(self._delay)
        memory.store(batch)
        logits = torch.full((len(batch.logit_rows), self.info.vocab_size), float("-inf"))
        for index, row in enumerate(batch.logit_rows.tolist()):
            for token, value in self.next_logits(memory.seen_by(batch, row)).items():
                logits[index, token] = value
        # In place of a hidden state: what was seen, as far as a script cares.
        seen = [memory.seen_by(batch, row) for row in batch.hidden_rows.tolist()]
        hidden = torch.tensor([[float(len(tokens)), float(tokens[-1])] for tokens in seen]) if seen else None
        return ModelOutput(logits, hidden)

    def read_pages(self, pages: Sequence[int]) -> NDArray[np.uint8]:
        return self._slots().read_pages(pages)

    def write_pages(self, pages: Sequence[int], blocks: NDArray[np.uint8]) -> None:
        self._slots().write_pages(pages, blocks)

    @property
    def slot_bytes(self) -> int:
        return self._slots().slot_bytes

    def _slots(self) -> SlotMemory:
        if self._memory is None:
            raise BadField("the pool has not been allocated; call allocate() before the first pass")
        return self._memory

    def move(self, slots: Int32Array) -> None:
        if self._memory is not None:
            self._memory.move(slots)

    def erase(self, slots: Int32Array) -> None:
        """Nothing: tokens in slots that no context counts are never seen."""

    def read_adapter(self, folder: str, most: int) -> LoadedAdapter:
        raise Unsupported("a scripted model has no weights to adapt: serve a real one to use adapters")

    def keep_adapter(self, slot: int, adapter: LoadedAdapter) -> None:
        """Never called, as none can be read."""

    def drop_adapter(self, slot: int) -> None:
        """Never called, as none is kept."""

    def next_logits(self, tokens: list[int]) -> Mapping[int, float]:
        """Logits of the tokens that may follow."""
        text = self._decode(tokens)
        for rule in self._rules:
            if rule.when.search(text):
                return self._say(rule, tokens)
        return {self._end: _SURE}

    def tokenizer_files(self) -> dict[str, bytes]:
        if self._folder is None:
            return byte_tokenizer.files()
        return read_tokenizer_files(self._folder)

    def _say(self, rule: _Rule, tokens: list[int]) -> Mapping[int, float]:
        start = 0
        for reply in rule.replies:
            after = _end_of(reply.tokens, tokens, start)
            if after is not None and after < len(tokens):
                start = after
                continue
            said = len(reply.tokens) if after is not None else _said(reply.tokens, tokens[start:])
            if said == len(reply.tokens):
                return {self._end: _SURE}
            return reply.logits[said] if reply.logits is not None else {reply.tokens[said]: _SURE}
        return {self._end: _SURE}


def load_script(path: Path) -> ScriptedModel:
    """Read a script. Raises NotFound or BadField, with what is wrong."""
    try:
        script = msgspec.json.decode(path.read_bytes(), type=Script)
    except OSError as exc:
        raise NotFound(f"cannot read the script {path}: {exc.strerror}") from exc
    except msgspec.MsgspecError as exc:
        raise BadField(f"script {path}: {exc}") from exc
    folder: Path | None = None
    if script.tokenizer:
        folder = path.parent / Path(script.tokenizer).expanduser()
        if not (folder / "tokenizer.json").is_file():
            raise NotFound(f"script {path}: {folder} has no tokenizer.json")
    return ScriptedModel(script, path.stem, folder=folder)


def _compile(rule: Rule, encode: Callable[[str], list[int]], vocab: int) -> _Rule:
    try:
        pattern = re.compile(rule.when)
    except re.error as exc:
        raise BadField(f"`when` is no regular expression: {rule.when!r}: {exc}") from exc
    return _Rule(pattern, [_reply(reply, encode, vocab) for reply in rule.replies])


def _reply(reply: str | list[int] | LogitsReply, encode: Callable[[str], list[int]], vocab: int) -> _Reply:
    logits: list[dict[int, float]] | None = None
    if isinstance(reply, LogitsReply):
        logits = [{int(token): value for token, value in row.items()} for row in reply.logits]
        if not all(logits):
            raise BadField("every row of `logits` needs at least one token")
        tokens = [max(row, key=lambda token: row[token]) for row in logits]
    else:
        tokens = encode(reply) if isinstance(reply, str) else reply
    named = [*tokens, *(token for row in logits or () for token in row)]
    if any(not 0 <= token < vocab for token in named):
        raise BadField(f"a reply has a token outside of the vocabulary of {vocab}")
    return _Reply(tokens, logits)


def _end_of(reply: Sequence[int], tokens: list[int], start: int) -> int | None:
    """Where the first whole occurrence of the reply at or after `start` ends."""
    width = len(reply)
    for at in range(start, len(tokens) - width + 1):
        if tokens[at : at + width] == list(reply):
            return at + width
    return None


def _said(reply: Sequence[int], tokens: list[int]) -> int:
    """How much of the reply stands at the end of the tokens."""
    for count in range(min(len(reply), len(tokens)), 0, -1):
        if tokens[-count:] == list(reply[:count]):
            return count
    return 0


def _eos_ids(folder: Path, tokenizer: Tokenizer) -> tuple[int, ...]:
    """From generation_config.json or tokenizer_config.json of the folder."""
    generation: dict[str, Any] = _json(folder / "generation_config.json")
    found = generation.get("eos_token_id")
    if isinstance(found, int):
        return (found,)
    if isinstance(found, list) and found:
        return tuple(int(token) for token in found)
    named = _json(folder / "tokenizer_config.json").get("eos_token")
    content = named.get("content") if isinstance(named, dict) else named
    token = tokenizer.token_to_id(content) if isinstance(content, str) else None
    if token is None:
        raise BadField(f"{folder} names no end token")
    return (int(token),)


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.is_file() else {}
