"""Generators: streams of decoded tokens."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from wit_world.imports import generation as raw

from inferlet import loop, session
from inferlet.errors import PieError, host_errors, unwrap
from inferlet.grammar import GrammarSource
from inferlet.probes import Probe, answer
from inferlet.sample import Sampler

if TYPE_CHECKING:
    from inferlet.context import Context

_REASONS = {
    raw.Finish.STOP: "stop",
    raw.Finish.STOP_STRING: "stop",
    raw.Finish.LENGTH: "length",
    raw.Finish.CONTEXT_FULL: "context_full",
}


@dataclass(frozen=True)
class Speculation:
    """Guesses ahead: from the context itself (its last `ngram` tokens; 0: not), from the engine's draft model. They
    change the speed, never the tokens."""

    ngram: int = 3
    drafts: int = 8
    model: bool = False


@dataclass(frozen=True)
class RunStats:
    """Why a generation was fast or slow: prompt tokens found instead of computed, guesses tried and right."""

    cached_tokens: int
    drafted: int
    accepted: int


class GenStep:
    """What one step brought: `tokens`, their `text`, for each token the answers of the probes, and on the last step the
    `finish_reason` (`stop`, `length`, `context_full`)."""

    __slots__ = ("finish_reason", "probes", "text", "tokens")

    def __init__(
        self, tokens: list[int], text: str, finish_reason: str | None, probes: Sequence[Sequence[Any]] = ()
    ) -> None:
        self.tokens = tokens
        self.text = text
        self.finish_reason = finish_reason
        self.probes = probes

    async def execute(self) -> GenStep:
        """The step itself: iterating has run it already."""
        return self

    def __repr__(self) -> str:
        return f"GenStep({self.tokens}, {self.text!r}, {self.finish_reason!r})"


class Generator:
    """An asynchronous iterator of steps. The engine decodes ahead of it; leaving the loop early costs nothing: the
    context then ends at the last step that was taken, and the rest is discarded."""

    def __init__(
        self,
        context: Context,
        sampler: Sampler,
        max_tokens: int | None,
        stop: Iterable[int | str] | None,
        seed: int | None,
        window: int | None,
        grammar: GrammarSource | None = None,
        speculation: Speculation | None = None,
        probes: Iterable[Probe] = (),
    ) -> None:
        self._context = context
        self._sampler = sampler
        self._max_tokens = max_tokens
        self._strings: list[str] = []
        self._stop: list[int] = context.model.stop_ids
        if stop is not None:
            self.stop(stop)
        self._seed = seed
        self._window = window
        self._grammar = grammar
        self._speculation = speculation
        self._probes = list(probes)
        self._run: raw.Run | None = None
        self._id = 0
        self._closed = False
        self._stats: RunStats | None = None
        self.tokens_generated = 0
        self.finish_reason: str | None = None

    def max_tokens(self, n: int) -> Generator:
        """At most `n` tokens. Before the first step."""
        self._max_tokens = n
        return self

    def stop(self, stops: Iterable[int | str]) -> Generator:
        """End at these. Ids replace the model's own stop ids; strings are looked for in the text besides them, and are
        not part of it; an empty list stops at nothing. Before the first step."""
        stops = [stops] if isinstance(stops, str) else list(stops)
        strings = [stop for stop in stops if isinstance(stop, str) and stop]
        ids = [stop for stop in stops if not isinstance(stop, str)]
        self._strings = strings
        if ids or not strings:
            self._stop = ids
        return self

    def add_stop(self, tokens: Iterable[int]) -> Generator:
        """End at these ids too. Before the first step."""
        self._stop = [*self._stop, *tokens]
        return self

    @property
    def is_done(self) -> bool:
        return self.finish_reason is not None

    def __aiter__(self) -> Generator:
        return self

    async def __anext__(self) -> GenStep:
        if self._closed:
            raise StopAsyncIteration
        run = self._run or self._open()
        if loop.is_alone():
            with host_errors():
                step = run.take()
        else:
            while (got := run.next()) is None:
                await loop.ready(self._id)
                if self._closed:
                    raise StopAsyncIteration
            step = unwrap(got)
        if step.tokens:
            self._took(step.tokens)
        probes: Sequence[Sequence[Any]] = ()
        if step.probes:
            width = len(self._probes)
            answers = [answer(output) for output in step.probes]
            probes = [answers[at : at + width] for at in range(0, len(answers), width)]
        if step.finish is not None:
            self.finish_reason = _REASONS[step.finish]
            self.close()
            if not step.tokens and not step.text:
                raise StopAsyncIteration
        return GenStep(step.tokens, step.text, self.finish_reason, probes)

    def _open(self) -> raw.Run:
        guessing = self._speculation
        spec = raw.Spec(
            self._sampler.wit,
            self._seed,
            self._stop,
            self._strings,
            None if self._grammar is None else self._grammar.wit,
            None if guessing is None else raw.Speculation(guessing.ngram, guessing.drafts, guessing.model),
            [probe.wit for probe in self._probes],
            self._max_tokens,
            self._window,
            True,
        )
        with host_errors():
            run = self._run = raw.Run.open(self._context.handle, spec)
        self._id = run.id()
        return run

    def pause(self) -> None:
        """Let the engine decode no further for now; its pages are the first to go when they run out."""
        if self._run is not None:
            self._run.pause()

    def resume(self) -> None:
        """Go on after `pause`."""
        if self._run is not None:
            self._run.resume()

    @property
    def stats(self) -> RunStats | None:
        """None until the engine has no more to do for it, and for a generation that was left early."""
        if self._stats is None and self._run is not None and (found := self._run.stats()) is not None:
            self._stats = RunStats(found.cached_tokens, found.drafted, found.accepted)
        return self._stats

    def close(self) -> None:
        """Stop here: who waits for a step is told that there are no more. The engine's work beyond the last step taken
        is discarded."""
        self._closed = True
        _ = self.stats
        run, self._run = self._run, None
        if run is not None:
            run.__exit__(None, None, None)

    async def text(self) -> str:
        """The rest, as text."""
        return (await self._rest())[1]

    async def tokens(self) -> list[int]:
        """The rest, as ids."""
        return (await self._rest())[0]

    async def send(self, field: str | None = None) -> str:
        """The rest, as text. The client gets each piece as it is decoded, as if each step's `text` were sent by
        `session.send` (with a `field`: `{field: text}`), but the program sleeps meanwhile."""
        sent = raw.SentAs_Text() if field is None else raw.SentAs_Field(field)
        return (await self._rest(sent))[1]

    async def _rest(self, sent: raw.SentAs | None = None) -> tuple[list[int], str]:
        if self._closed or self._probes or not loop.is_alone():
            return await self._rest_by_steps(sent)  # another task may close it, cancel this one, or use the context
        run = self._run or self._open()
        length = self._context.seq_len
        try:
            with host_errors():
                pending = run.drain(sent)
            with pending:
                rest = unwrap(await loop.result(pending))
        except PieError:
            with suppress(PieError):  # of a context that is dead nothing can be asked
                self._took(self._context.tokens[length:])
            raise
        self._took(rest.tokens)
        self.finish_reason = _REASONS[rest.finish]
        self.close()
        return rest.tokens, rest.text

    async def _rest_by_steps(self, sent: raw.SentAs | None) -> tuple[list[int], str]:
        steps: list[GenStep] = []
        async for step in self:
            steps.append(step)
            if sent is not None and step.text:
                session.send({sent.value: step.text} if isinstance(sent, raw.SentAs_Field) else step.text)
        return [token for step in steps for token in step.tokens], "".join(step.text for step in steps)

    def _took(self, tokens: list[int]) -> None:
        self.tokens_generated += len(tokens)
        self._context._wrote(tokens)

    collect_text = text
    collect_tokens = tokens

    async def collect_json(self, *, parse: Callable[[str], Any] = json.loads) -> Any:
        """The rest, parsed. A `JsonSchema` as grammar makes sure that it is JSON; without one the parser's error is
        raised where it is not."""
        return parse(await self.text())
