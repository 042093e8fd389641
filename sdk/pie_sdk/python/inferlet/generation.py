"""Generators: streams of decoded tokens."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from wit_world.imports import generation as raw

from inferlet import loop
from inferlet.errors import host_errors, unwrap
from inferlet.sample import Sampler
from inferlet.stops import StopStrings

if TYPE_CHECKING:
    from inferlet.context import Context


class GenStep:
    """What one step brought: `tokens`, their `text`, and on the last step the `finish_reason`."""

    __slots__ = ("finish_reason", "text", "tokens")

    def __init__(self, tokens: list[int], text: str, finish_reason: str | None) -> None:
        self.tokens = tokens
        self.text = text
        self.finish_reason = finish_reason

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
    ) -> None:
        self._context = context
        self._sampler = sampler
        self._max_tokens = max_tokens
        self._strings: StopStrings | None = None
        self._stop: list[int] = context.model.stop_ids
        if stop is not None:
            self.stop(stop)
        self._seed = seed
        self._window = window
        self._run: raw.Run | None = None
        self._id = 0
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
        self._strings = StopStrings(strings) if strings else None
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
        if self.finish_reason is not None:
            raise StopAsyncIteration
        run = self._run or self._open()
        while (got := run.next()) is None:
            await loop.ready(self._id)
        step = unwrap(got)
        if step.tokens:
            self.tokens_generated += len(step.tokens)
            self._context._wrote(step.tokens)
        text = step.text
        if step.finish is not None:
            self.finish_reason = step.finish.name.lower()
        if self._strings is not None:
            text, found = self._strings.feed(text)
            if found:
                self.finish_reason = "stop"
            elif self.finish_reason is not None:
                text += self._strings.finish()
        if self.finish_reason is not None:
            self.close()
            if not step.tokens and not text:
                raise StopAsyncIteration
        return GenStep(step.tokens, text, self.finish_reason)

    def _open(self) -> raw.Run:
        spec = raw.Spec(self._sampler.wit, self._seed, self._stop, self._max_tokens, self._window, True)
        with host_errors():
            run = self._run = raw.Run.open(self._context.handle, spec)
        self._id = run.id()
        return run

    def close(self) -> None:
        """Stop here. The engine's work beyond the last step taken is discarded."""
        run, self._run = self._run, None
        if run is not None:
            run.__exit__(None, None, None)

    async def text(self) -> str:
        """The rest, as text."""
        return "".join([step.text async for step in self])

    async def tokens(self) -> list[int]:
        """The rest, as ids."""
        return [token async for step in self for token in step.tokens]

    collect_text = text
    collect_tokens = tokens

    async def collect_json(self, *, parse: Callable[[str], Any] = json.loads) -> Any:
        """The rest, parsed. Nothing forces the model to write JSON yet: the parser's error is raised if it did not."""
        return parse(await self.text())
