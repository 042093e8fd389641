"""Where a program stands in a grammar."""

from __future__ import annotations

import time
from collections.abc import Sequence

from llguidance import LLMatcher
from pie_wire.errors import BadRequest, PieError, TooLarge
from pie_wire.grammars import allowed_bits

from pie_runner.limits import Usage
from pie_runner.tokenizers import Tokenizer

SLOW_SECONDS = 0.002
"""A mask that took longer makes the next one be computed beside the loop."""


class Grammar:
    """The WIT's `grammar`: compiled for one model's tokenizer."""

    def __init__(self, start: LLMatcher, tokenizer: Tokenizer) -> None:
        """`start` is shared and only copied."""
        self._start = start
        self._tokenizer = tokenizer

    def matcher(self, usage: Usage) -> Matcher:
        """At its beginning. Raises LimitExceeded when the process holds too many."""
        return Matcher(self._start.deep_copy(), self._tokenizer, usage)

    def close(self) -> None:
        """Nothing to release."""


class Matcher:
    """The WIT's `matcher`."""

    def __init__(self, matcher: LLMatcher, tokenizer: Tokenizer, usage: Usage, accepted: int = 0) -> None:
        usage.hold_matcher()
        self._matcher = matcher
        self._tokenizer = tokenizer
        self._usage = usage
        self._accepted = accepted
        self.is_slow = False
        """Masks should be computed beside the loop."""

    def fork(self) -> Matcher:
        """Another one at the same place. Raises LimitExceeded."""
        return Matcher(self._matcher.deep_copy(), self._tokenizer, self._usage, self._accepted)

    def accept(self, tokens: Sequence[int]) -> None:
        """Go on with these. Raises BadRequest at the first that may not follow; those before it stand."""
        self._tokenizer.check(tokens)
        taken = self._matcher.try_consume_tokens(list(tokens))
        self._accepted += taken
        self._check()
        if taken < len(tokens):
            raise BadRequest(f"token {tokens[taken]} (number {taken} of these) may not follow in the grammar")

    def mask(self) -> bytes:
        """Packed bits of what may follow. Raises TooLarge when that has become too much to compute."""
        began = time.perf_counter()
        bits = allowed_bits(self._matcher, self._tokenizer.vocab_size).tobytes()
        self.is_slow = time.perf_counter() - began > SLOW_SECONDS
        self._check()
        return bits

    @property
    def complete(self) -> bool:
        """The text so far is a whole one."""
        return self._matcher.is_accepting()

    @property
    def terminated(self) -> bool:
        """Nothing may follow, or an end token did."""
        return self._matcher.is_stopped() and not self._matcher.is_error()

    @property
    def forced(self) -> list[int]:
        """Tokens that must follow."""
        return self._matcher.compute_ff_tokens()

    def rollback(self, tokens: int) -> None:
        """Take back the last ones. Raises BadRequest when there were fewer."""
        if tokens > self._accepted:
            raise BadRequest(f"{tokens} tokens cannot be taken back of {self._accepted} accepted ones")
        if tokens:
            self._matcher.rollback(tokens)
            self._accepted -= tokens

    def reset(self) -> None:
        """Back to the beginning."""
        self._matcher.reset()
        self._accepted = 0

    def close(self) -> None:
        """The handle is gone."""
        self._usage.drop_matcher()

    def _check(self) -> None:
        error = self.error
        if error is not None:
            raise error

    @property
    def error(self) -> PieError | None:
        """Why it cannot go on, if so."""
        if not self._matcher.is_error():
            return None
        reason = self._matcher.get_error().splitlines()[0]
        return TooLarge(f"the grammar cannot be followed further, simplify it: {reason}")
