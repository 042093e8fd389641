"""A model as programs see it: facts, tokenizer, chat template. Loaded from the files its engine sends."""

from __future__ import annotations

import hashlib
import struct
from base64 import b64encode
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, cast

import msgspec
import structlog
from llguidance import LLTokenizer
from pie_wire.errors import PieError, Unsupported
from pie_wire.grammar_check import Vocabulary
from pie_wire.grammars import load
from pie_wire.messages.common import ModelFacts

from pie_runner.decoding.alphabet import Alphabet
from pie_runner.decoding.derive import Formats, derive
from pie_runner.templates import ChatTemplate
from pie_runner.tokenizers import Tokenizer

TOKENIZER = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
GENERATION_CONFIG = "generation_config.json"
CHAT_TEMPLATE = "chat_template.jinja"

log = structlog.get_logger("pie.models")

_PROBE = "\ue000answer\ue000"


class Model:
    """Immutable after loading; shared by all processes of the runner."""

    def __init__(
        self,
        facts: ModelFacts,
        tokenizer: Tokenizer,
        template: ChatTemplate | None,
        vocabulary: Vocabulary,
        follower: LLTokenizer | None,
        pieces: str = "",
    ) -> None:
        """`pieces` is what the WIT's `tokenizer.vocabulary` answers; empty if nobody knows."""
        self.facts = facts
        self.tokenizer = tokenizer
        self._template = template
        self.eos_ids = list(vocabulary.eos)
        self.vocabulary = vocabulary
        self.follower = follower
        """What follows grammars; None for a tokenizer that cannot be."""
        self._pieces = pieces
        eos = self.eos_ids
        self.stop_ids = sorted({*eos, *self._turn_ends()})

    @property
    def name(self) -> str:
        return self.facts.name

    @property
    def template(self) -> ChatTemplate:
        """Raises Unsupported when the model has none."""
        if self._template is None:
            raise Unsupported(f"model {self.name} has no chat template: append plain text instead")
        return self._template

    @property
    def pieces(self) -> str:
        """The bytes of every id, packed. Raises Unsupported."""
        if not self._pieces:
            raise Unsupported(f"the bytes of tokens of model {self.name} are not known: decode ids instead")
        return self._pieces

    @cached_property
    def alphabet(self) -> Alphabet:
        """Its special tokens as characters."""
        return Alphabet(self.tokenizer)

    @cached_property
    def formats(self) -> Formats:
        """How it writes tool calls and reasoning: read off the template once, in a few milliseconds."""
        return derive(self._template, self.tokenizer, self.alphabet, self.stop_ids)

    def _turn_ends(self) -> set[int]:
        """The special token that the template puts right after an answer."""
        if self._template is None:
            return set()
        turns = [{"role": "user", "content": "x"}, {"role": "assistant", "content": _PROBE}]
        try:
            _, found, tail = self._template.render(turns, cue=False).rpartition(_PROBE)
        except PieError:
            return set()
        ids = self.tokenizer.encode(tail) if found else []
        special = {number for number, _ in self.tokenizer.special_tokens}
        return {ids[0]} & special if ids else set()


def model_key(facts: ModelFacts, files: Mapping[str, bytes]) -> bytes:
    """A digest of everything a Model is made of."""
    digest = hashlib.sha256(msgspec.msgpack.encode(facts))
    for name in sorted(files):
        digest.update(name.encode() + b"\0" + hashlib.sha256(files[name]).digest())
    return digest.digest()


def load_model(facts: ModelFacts, files: Mapping[str, bytes]) -> Model:
    """Takes 0.1 to 1 s: call it off the loop.

    Raises:
        Unsupported: no tokenizer.json, or files that cannot be read.
    """
    if TOKENIZER not in files:
        raise Unsupported(f"model {facts.name} comes without {TOKENIZER}: convert its tokenizer to that format")
    tokenizer = Tokenizer(files[TOKENIZER], facts.vocab)
    config = _json(files, TOKENIZER_CONFIG)
    tokens = {key: text for key in config if key.endswith("_token") and (text := _token(config[key])) is not None}
    source = files[CHAT_TEMPLATE].decode() if CHAT_TEMPLATE in files else _template_of(config)
    eos = {*facts.eos, *_ids(_json(files, GENERATION_CONFIG).get("eos_token_id"))}
    named = tokenizer.id_of(tokens.get("eos_token", ""))
    if named is not None:
        eos.add(named)
    template = ChatTemplate(source, tokens) if source else None
    vocabulary = Vocabulary(files[TOKENIZER].decode(), facts.vocab, sorted(i for i in eos if 0 <= i < facts.vocab))
    follower = _follower(vocabulary)
    pieces = _packed([follower.decode_bytes([i]) for i in range(facts.vocab)]) if follower is not None else ""
    return Model(facts, tokenizer, template, vocabulary, follower, pieces)


def _follower(vocabulary: Vocabulary) -> LLTokenizer | None:
    # Now, as this holds the interpreter: once programs run, it would stop all of them for as long.
    try:
        return load(vocabulary)
    except ValueError as exc:
        log.warning("grammars cannot be followed with this tokenizer", reason=str(exc))
        return None


def _packed(pieces: Sequence[bytes]) -> str:
    """As the WIT's `tokenizer.vocabulary` says; empty if one has more bytes than can be said."""
    if any(len(piece) > 0xFFFF for piece in pieces):
        return ""
    lengths = map(len, pieces)
    return b64encode(struct.pack(f"<I{len(pieces)}H", len(pieces), *lengths) + b"".join(pieces)).decode()


def _json(files: Mapping[str, bytes], name: str) -> dict[str, Any]:
    if name not in files:
        return {}
    try:
        value = msgspec.json.decode(files[name])
    except msgspec.DecodeError as exc:
        raise Unsupported(f"{name} of the model is not valid JSON: {exc}") from exc
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _token(value: Any) -> str | None:
    if isinstance(value, dict):
        value = cast("dict[str, Any]", value).get("content")
    return value if isinstance(value, str) else None


def _template_of(config: Mapping[str, Any]) -> str:
    """The template inside tokenizer_config.json: a string, or a list of named ones."""
    value = config.get("chat_template")
    if isinstance(value, list):
        named = {item["name"]: item["template"] for item in cast("list[dict[str, str]]", value)}
        value = named.get("default") or next(iter(named.values()), "")
    return value if isinstance(value, str) else ""


def _ids(value: Any) -> list[int]:
    if isinstance(value, int):
        return [value]
    return [i for i in cast("list[Any]", value) if isinstance(i, int)] if isinstance(value, list) else []
