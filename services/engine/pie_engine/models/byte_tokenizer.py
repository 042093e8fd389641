"""A tokenizer whose tokens are bytes and a few marks: what a script speaks when it names no model."""

from __future__ import annotations

import json
from typing import Final

SPECIAL: Final = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
VOCAB: Final = 256 + len(SPECIAL)
EOS_IDS: Final = (256, 258)

CHAT_TEMPLATE: Final = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def files() -> dict[str, bytes]:
    """Tokenizer files as a model folder would have them. Byte b is token b; the marks follow."""
    characters = _byte_characters()
    vocab = {characters[byte]: byte for byte in range(256)} | {mark: 256 + i for i, mark in enumerate(SPECIAL)}
    added = [
        {
            "id": 256 + index,
            "content": mark,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
        for index, mark in enumerate(SPECIAL)
    ]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": vocab,
            "merges": [],
        },
    }
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|im_start|>",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 1 << 20,
    }
    return {
        "tokenizer.json": json.dumps(tokenizer).encode(),
        "tokenizer_config.json": json.dumps(config).encode(),
        "chat_template.jinja": CHAT_TEMPLATE.encode(),
        "generation_config.json": json.dumps({"eos_token_id": list(EOS_IDS)}).encode(),
    }


def encode(text: str) -> list[int]:
    """Token ids; the marks are recognised in the text."""
    ids: list[int] = []
    while text:
        found = min(((at, mark) for mark in SPECIAL if (at := text.find(mark)) >= 0), default=None)
        if found is None:
            return ids + list(text.encode())
        at, mark = found
        ids += [*text[:at].encode(), 256 + SPECIAL.index(mark)]
        text = text[at + len(mark) :]
    return ids


def decode(ids: list[int]) -> str:
    """Text with the marks written out; bytes that are no UTF-8 become replacement characters."""
    parts: list[bytes] = [bytes([i]) if i < 256 else SPECIAL[i - 256].encode() for i in ids if i < VOCAB]
    return b"".join(parts).decode(errors="replace")


def _byte_characters() -> list[str]:
    """The printable character that stands for each byte in byte-level vocabularies (GPT-2's table)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) if byte in printable else chr(256 + others.index(byte)) for byte in range(256)]
