"""Rebuild a byte-level BPE tokenizer from a GGUF file's own metadata, and prove that it is the same tokenizer.

A GGUF names its pre-tokenizer by a word (`tokenizer.ggml.pre`) instead of carrying it. Guessing it wrong changes the
ids of some strings only (for SmolLM2: numbers of two digits or more), which no loader notices. So each known word is
listed here with its split rules, an unknown word is refused, and the finished tokenizer is compared with a plain
reading of the metadata.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import regex
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode

_GPT2_SPLIT = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_SPLIT_RULES = {
    "default": (_GPT2_SPLIT,),
    "gpt-2": (_GPT2_SPLIT,),
    "smollm": (r"\p{N}", _GPT2_SPLIT),
    "qwen2": (_QWEN2_SPLIT,),
}
"""By the word of `tokenizer.ggml.pre`, as llama.cpp's unicode splitting defines it."""
_CONTROL, _USER_DEFINED = 3, 4

PROBES = (
    "The capital of France is",
    "In 2024, 1234567 people paid $3.50 each; 42% came back.",
    "x1 = a2b33c444\n\tfor i in range(100):\n\t\tprint(i ** 2)\n",
    "  leading, double  spaces and trailing   ",
    "It's we're they'll I'd DON'T",
    "naïve café, Zürich, 東京 and 🙂🙃 — “quoted”",
    "٣٤٥ Ⅷ ½ x² 1e-9",
    "\n\n\n \n",
    "",
)


class GgufError(Exception):
    """The GGUF cannot be used; the message says what is wrong with it."""


@dataclass(frozen=True)
class GgufVocabulary:
    """What a GGUF's metadata says about its tokenizer. `token_types` holds GGUF's numbers (3 control, 4 user)."""

    pre: str
    tokens: tuple[str, ...]
    token_types: tuple[int, ...]
    merges: tuple[tuple[str, str], ...]
    bos_id: int | None
    eos_id: int | None
    unk_id: int | None
    pad_id: int | None
    chat_template: str | None
    context_length: int

    @classmethod
    def from_metadata(cls, fields: Mapping[str, Any]) -> GgufVocabulary:
        """Read from decoded GGUF fields. Raises GgufError where the tokenizer is of a kind that is not supported."""
        kind = fields.get("tokenizer.ggml.model")
        if kind != "gpt2":
            raise GgufError(f"its tokenizer is of kind {kind!r}; only byte-level BPE ('gpt2') is supported")
        for key in (
            "tokenizer.ggml.tokens",
            "tokenizer.ggml.token_type",
            "tokenizer.ggml.merges",
            "general.architecture",
        ):
            if key not in fields:
                raise GgufError(f"its metadata lacks {key}")
        return cls(
            pre=str(fields.get("tokenizer.ggml.pre", "default")),
            tokens=tuple(fields["tokenizer.ggml.tokens"]),
            token_types=tuple(fields["tokenizer.ggml.token_type"]),
            merges=tuple(_merge(line) for line in fields["tokenizer.ggml.merges"]),
            bos_id=fields.get("tokenizer.ggml.bos_token_id"),
            eos_id=fields.get("tokenizer.ggml.eos_token_id"),
            unk_id=fields.get("tokenizer.ggml.unknown_token_id"),
            pad_id=fields.get("tokenizer.ggml.padding_token_id"),
            chat_template=fields.get("tokenizer.chat_template"),
            context_length=int(fields[f"{fields['general.architecture']}.context_length"]),
        )

    @property
    def special_ids(self) -> tuple[int, ...]:
        return tuple(i for i, kind in enumerate(self.token_types) if kind in (_CONTROL, _USER_DEFINED))


def _merge(line: str) -> tuple[str, str]:
    left, _, right = line.partition(" ")
    return left, right


def split_rules(pre: str) -> tuple[str, ...]:
    """The regular expressions that cut a text into words, each applied to the pieces of the one before."""
    if pre not in _SPLIT_RULES:
        raise GgufError(f"its pre-tokenizer {pre!r} is unknown; known are {', '.join(sorted(_SPLIT_RULES))}")
    return _SPLIT_RULES[pre]


def build_tokenizer(vocabulary: GgufVocabulary) -> PreTrainedTokenizerFast:
    """A tokenizer made of the GGUF's tokens, merges, pre-tokenizer word, special ids and chat template alone."""
    if vocabulary.pre == "smollm":
        digits = pre_tokenizers.Digits(individual_digits=True)
        words = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)])
    else:
        (rule,) = split_rules(vocabulary.pre)
        words = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(rule), behavior="isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    vocab = {token: i for i, token in enumerate(vocabulary.tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=list(vocabulary.merges)))
    tokenizer.pre_tokenizer = words
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [AddedToken(vocabulary.tokens[i], special=True, normalized=False) for i in vocabulary.special_ids]
    )
    named = {
        "bos_token": vocabulary.bos_id,
        "eos_token": vocabulary.eos_id,
        "unk_token": vocabulary.unk_id,
        "pad_token": vocabulary.pad_id,
    }
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=vocabulary.context_length,
        clean_up_tokenization_spaces=False,
        **{name: vocabulary.tokens[i] for name, i in named.items() if i is not None},
    )
    fast.chat_template = vocabulary.chat_template
    return fast


class ReferenceEncoder:
    """Byte-level BPE written from the definition: slow, and independent of the tokenizers library it checks."""

    def __init__(self, vocabulary: GgufVocabulary) -> None:
        self._ids = {token: i for i, token in enumerate(vocabulary.tokens)}
        self._ranks = {pair: rank for rank, pair in enumerate(vocabulary.merges)}
        self._rules = [regex.compile(rule) for rule in split_rules(vocabulary.pre)]
        self._letters = bytes_to_unicode()

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, which must hold no special token."""
        pieces = [text] if text else []
        for rule in self._rules:
            pieces = [part for piece in pieces for part in _cut(rule, piece)]
        return [self._ids[symbol] for piece in pieces for symbol in self._merge(piece)]

    def _merge(self, piece: str) -> Sequence[str]:
        symbols = [self._letters[byte] for byte in piece.encode("utf-8")]
        while len(symbols) > 1:
            ranked = [(self._ranks.get(pair, len(self._ranks)), i) for i, pair in enumerate(pairwise(symbols))]
            rank, at = min(ranked)
            if rank == len(self._ranks):
                break
            symbols[at : at + 2] = [symbols[at] + symbols[at + 1]]
        return symbols


def _cut(rule: regex.Pattern[str], piece: str) -> Iterator[str]:
    """The matches of `rule` in `piece` and the text between them, in order."""
    at = 0
    for match in rule.finditer(piece):
        if match.start() > at:
            yield piece[at : match.start()]
        yield match.group()
        at = match.end()
    if at < len(piece):
        yield piece[at:]


def verify_tokenizer(folder: Path, vocabulary: GgufVocabulary) -> None:
    """Compare the tokenizer saved in `folder`, loaded as every service loads it, with the metadata.

    Raises GgufError that names the first difference in tokens, special ids, chat template or the ids of a probe string.
    """
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    if len(tokenizer) != len(vocabulary.tokens):
        raise GgufError(f"the tokenizer has {len(tokenizer)} tokens, the GGUF {len(vocabulary.tokens)}")
    found = tokenizer.convert_ids_to_tokens(list(range(len(vocabulary.tokens))))
    for i, (ours, theirs) in enumerate(zip(found, vocabulary.tokens, strict=True)):
        if ours != theirs:
            raise GgufError(f"token {i} is {ours!r} in the tokenizer and {theirs!r} in the GGUF")
    for name in ("bos", "eos", "unk", "pad"):
        ours, theirs = getattr(tokenizer, f"{name}_token_id"), getattr(vocabulary, f"{name}_id")
        if ours != theirs:
            raise GgufError(f"the {name} id is {ours} in the tokenizer and {theirs} in the GGUF")
    if tokenizer.chat_template != vocabulary.chat_template:
        raise GgufError("the tokenizer's chat template is not the GGUF's")
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    if [tuple(pair) for pair in merges] != list(vocabulary.merges):
        raise GgufError("the tokenizer's merges are not the GGUF's")
    special = tuple(sorted(tokenizer.added_tokens_decoder))
    if special != vocabulary.special_ids:
        raise GgufError(f"the special tokens are {special} in the tokenizer and {vocabulary.special_ids} in the GGUF")
    for i in vocabulary.special_ids:
        if tokenizer.encode(vocabulary.tokens[i], add_special_tokens=False) != [i]:
            raise GgufError(f"the special token {vocabulary.tokens[i]!r} does not encode to {i}")
    reference = ReferenceEncoder(vocabulary)
    for probe in PROBES:
        ours, theirs = tokenizer.encode(probe, add_special_tokens=False), reference.encode(probe)
        if ours != theirs:
            raise GgufError(f"{probe!r} encodes to {ours}, but by the GGUF's merges to {theirs}")
        if tokenizer.decode(ours) != probe:
            raise GgufError(f"{probe!r} comes back as {tokenizer.decode(ours)!r}")
