"""Checks of what programs pass. Each raises a typed error that names the value and what is allowed."""

from __future__ import annotations

from collections.abc import Sequence

from pie_wire.errors import BadRequest, TooLarge

from pie_runner.base64_pieces import decoded

MAX_TEXT = 4 << 20
MAX_MESSAGES = 1 << 20
"""Of messages as JSON: no other thread runs while they are read."""
MAX_TOOLS = 256 << 10
"""Of the tools that are offered to a model, as JSON: what a grammar may have."""
MAX_IDS = 1024
"""Of one list beside tokens: stop ids, biases, log-probabilities."""
MAX_NAME = 200
MAX_MASK = 1 << 20
"""Bytes of a token mask, a bit for each token: more than any vocabulary needs."""


def text(value: str, what: str, limit: int = MAX_TEXT) -> str:
    """A text within its limit."""
    if len(value) > limit:
        raise TooLarge(f"{what} has {len(value)} characters; at most {limit} are allowed")
    return value


def name(value: str) -> str:
    """A snapshot name."""
    if not value or len(value) > MAX_NAME or not value.isprintable():
        raise BadRequest(f"a snapshot name has 1 to {MAX_NAME} printable characters, not {value[:40]!r}")
    return value


def plain(ids: Sequence[int]) -> list[int]:
    """Token ids as a list of ints (the sandbox may hand over an array of numbers)."""
    return [*ids] if isinstance(ids, list) else [int(i) for i in ids]


def ids(values: Sequence[int], what: str, vocab: int) -> list[int]:
    """Ids of the vocabulary, not too many."""
    if len(values) > MAX_IDS:
        raise TooLarge(f"{what}: at most {MAX_IDS} are allowed, not {len(values)}")
    found = plain(values)
    if found and not (min(found) >= 0 and max(found) < vocab):
        wrong = next(i for i in found if not 0 <= i < vocab)
        raise BadRequest(f"{what}: token id {wrong} is outside the vocabulary of {vocab}")
    return found


def binary(value: str, what: str, limit: int) -> bytes:
    """The bytes of base64 text, of which `limit` are read at all."""
    return decoded(text(value, what, limit // 3 * 4 + 4), what)
