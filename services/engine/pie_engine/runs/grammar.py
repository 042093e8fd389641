"""What a grammar allows next, along one run.

The matcher of a run stands where its last token stands. Masks are computed on copies of it, in another thread while the
device computes the pass, and fetched by the device when it has logits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import TypeAlias

import numpy as np
from llguidance import LLMatcher
from numpy.typing import NDArray
from pie_wire.errors import PieError, TooLarge
from pie_wire.grammars import allowed_bits

from pie_engine.passes.outputs import Mask

Bits: TypeAlias = NDArray[np.uint32]
Submit: TypeAlias = Callable[[Callable[[], list[Bits]]], "Future[list[Bits]]"]


class Constraint:
    """A grammar along one run: a function of the grammar and the tokens taken so far."""

    def __init__(self, matcher: LLMatcher, vocab: int, submit: Submit) -> None:
        """`matcher` is not shared; `submit` runs a call in another thread."""
        self._matcher = matcher
        self._vocab = vocab
        self._submit = submit

    def accepts(self, drafts: Sequence[int]) -> int:
        """How many of these tokens, from the first on, may follow."""
        return self._matcher.validate_tokens(list(drafts)) if drafts else 0

    def masks(self, drafts: Sequence[int]) -> list[Mask]:
        """Begin to compute what may come next, and after each of `drafts` (which `accepts` allows)."""
        copy = self._matcher.deep_copy()

        def compute() -> list[Bits]:
            computed = [allowed_bits(copy, self._vocab)]
            for draft in drafts:
                copy.consume_token(draft)
                computed.append(allowed_bits(copy, self._vocab))
            return computed

        future = self._submit(compute)
        return [_Computed(future, index) for index in range(len(drafts) + 1)]

    def take(self, token: int) -> None:
        """The run goes on with this token."""
        self._matcher.consume_token(token)

    @property
    def finished(self) -> bool:
        """Nothing but an end token may follow."""
        return self._matcher.is_stopped() and not self._matcher.is_error()

    @property
    def error(self) -> PieError | None:
        """Why the grammar cannot go on, if so: what it allows has become too much to compute."""
        matcher = self._matcher
        if not matcher.is_error():
            # A mask is computed on a copy: the failure shows when the run's own matcher is asked for the same.
            allowed_bits(matcher, self._vocab)
        if not matcher.is_error():
            return None
        return TooLarge(f"the grammar cannot be followed further, simplify it: {matcher.get_error().splitlines()[0]}")


class _Computed:
    """One mask of several that are computed together."""

    def __init__(self, future: Future[list[Bits]], index: int) -> None:
        self._future = future
        self._index = index

    def bits(self) -> Bits:
        return self._future.result()[self._index]


class Both:
    """What two masks allow."""

    def __init__(self, first: Mask, second: Mask) -> None:
        self._first = first
        self._second = second

    def bits(self) -> Bits:
        return self._first.bits() & self._second.bits()
