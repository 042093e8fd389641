"""Work that would hold up the loop: inline when small, else on a worker thread with the fiber parked."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from pie_runner.engines import Offload
from pie_runner.process import process_of
from pie_runner.tokenizers import INLINE_CHARACTERS, Tokenizer
from pie_runner.wasm.hostcall import Pending

if TYPE_CHECKING:
    from pie_runner.wasm.fiber import Fiber

T = TypeVar("T")

MAX_ENCODED = 1 << 18
"""Tokens that one call returns: the loop stands still while they are handed over."""


def offloaded(fiber: Fiber, work: Callable[[], object], offload: Offload | None = None) -> Pending:
    """A Pending for the result of `work`, which runs on a worker thread (of `offload`, else the general one) and must
    touch nothing that changes."""
    pending = Pending(fiber)

    def then(result: object, error: Exception | None) -> None:
        if error is None:
            pending.resolve(result)
        else:
            pending.fail(error)

    (offload or process_of(fiber).offload)(work, then)
    return pending


def now_or_offloaded(fiber: Fiber, work: Callable[[], T], *, is_short: bool) -> T | Pending:
    """The result of `work`: now if that is short, else from a worker thread. What only the program of this fiber has is
    nobody else's meanwhile, for it is parked."""
    return work() if is_short else offloaded(fiber, work)


def encoded(fiber: Fiber, tokenizer: Tokenizer, text: str) -> list[int] | Pending:
    """Ids of a text, now if it is short."""
    return now_or_offloaded(fiber, lambda: tokens_of(tokenizer, text), is_short=len(text) <= INLINE_CHARACTERS)


def tokens_of(tokenizer: Tokenizer, text: str) -> list[int]:
    """Ids of a text. Raises TooLarge for more than can be handed over."""
    return tokenizer.encode(text, MAX_ENCODED) if text else []
