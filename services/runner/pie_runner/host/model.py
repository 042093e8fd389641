"""Models and tokenizers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from pie_wire.errors import PieError, TooLarge

from pie_runner.detokenizer import Detokenizer
from pie_runner.host import checks
from pie_runner.host.methods import method, reading
from pie_runner.host.offloaded import encoded, now_or_offloaded
from pie_runner.models import Model
from pie_runner.process import process_of
from pie_runner.tokenizers import INLINE_TOKENS, Tokenizer
from pie_runner.wasm.hostcall import HostFunction, Pending

if TYPE_CHECKING:
    from pie_runner.wasm.fiber import Fiber


MAX_FED = 65_536
"""To a detokenizer by one call: a worker thread cannot be stopped."""


class ModelHandle:
    """The WIT's `model`: cheap, owns nothing."""

    def __init__(self, model: Model) -> None:
        self.model = model

    def close(self) -> None:
        """Nothing to release."""


class TokenizerHandle:
    """The WIT's `tokenizer`."""

    def __init__(self, model: Model) -> None:
        self.model = model

    @property
    def tokenizer(self) -> Tokenizer:
        """What does the work."""
        return self.model.tokenizer

    def close(self) -> None:
        """Nothing to release."""


def load(fiber: Fiber, name: str) -> ModelHandle | Pending:
    """By name. Parks while an engine is on its way."""
    facilities = process_of(fiber).facilities
    found = facilities.engines.find(checks.text(name, "the model's name", 1000))
    if found is not None:
        return ModelHandle(found)

    def then(model: Model | None, error: PieError | None) -> None:
        if model is not None:
            pending.resolve(ModelHandle(model))
        elif error is not None:
            pending.fail(error)

    pending = Pending(fiber)
    pending.on_abandon = facilities.engines.when_loaded(name, facilities.model_wait, then)
    return pending


def encode(fiber: Fiber, handle: TokenizerHandle, text: str) -> list[int] | Pending:
    """Ids of a text."""
    return encoded(fiber, handle.tokenizer, checks.text(text, "the text to encode"))


def decode(fiber: Fiber, handle: TokenizerHandle, ids: Sequence[int], skip_special: bool) -> str | Pending:
    """Text of ids, now if they are few."""
    plain = checks.plain(ids)
    handle.tokenizer.check(plain)
    work = partial(handle.tokenizer.decode, plain, skip_special=skip_special)
    return now_or_offloaded(fiber, work, is_short=len(plain) <= INLINE_TOKENS)


def feed(fiber: Fiber, decoder: Detokenizer, ids: Sequence[int]) -> str | Pending:
    """Ids in, whole characters out."""
    if len(ids) > MAX_FED:
        raise TooLarge(f"a detokenizer takes at most {MAX_FED} tokens at once, not {len(ids)}: feed it in parts")
    plain = checks.plain(ids)
    return now_or_offloaded(fiber, lambda: decoder.feed(plain), is_short=len(plain) <= INLINE_TOKENS)


FUNCTIONS: Mapping[str, HostFunction] = {
    "[static]model.load": load,
    "[method]model.name": reading(ModelHandle, lambda handle: handle.model.name),
    "[method]model.max-context": reading(ModelHandle, lambda handle: handle.model.facts.max_context),
    "[method]model.page-size": reading(ModelHandle, lambda handle: handle.model.facts.page_size),
    "[method]model.vocab-size": reading(ModelHandle, lambda handle: handle.model.facts.vocab),
    "[method]model.stop-ids": reading(ModelHandle, lambda handle: handle.model.stop_ids),
    "[method]model.eos-ids": reading(ModelHandle, lambda handle: handle.model.eos_ids),
    "[method]model.tokenizer": reading(ModelHandle, lambda handle: TokenizerHandle(handle.model)),
    "[method]tokenizer.encode": encode,
    "[method]tokenizer.decode": decode,
    "[method]tokenizer.special-tokens": reading(TokenizerHandle, lambda handle: handle.tokenizer.special_tokens),
    "[method]tokenizer.vocabulary": reading(TokenizerHandle, lambda handle: handle.model.pieces),
    "[method]tokenizer.detokenizer": reading(TokenizerHandle, lambda handle: Detokenizer(handle.tokenizer)),
    "[method]detokenizer.feed": feed,
    "[method]detokenizer.finish": method(Detokenizer.finish),
}
