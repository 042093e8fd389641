"""Contexts: tokens with their KV cache."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Sequence
from typing import Any

from wit_world.imports import context as raw

from inferlet import loop
from inferlet.decoders import ToolCall
from inferlet.errors import host_errors, unwrap
from inferlet.forward import Forward, verify
from inferlet.generation import Generator, Speculation
from inferlet.grammar import GrammarSource
from inferlet.model import Model
from inferlet.pages import Pages
from inferlet.probes import Probe
from inferlet.sample import Sampler
from inferlet.turns import Turns


class Context(Pages):
    """A growing list of tokens. Turns and tokens can be chained: `ctx.system(...).user(...)`.

    Appending, forking and truncating do not wait for the engine; an error of theirs is raised by the next call that
    does (`flush`, a step of a generation). Pages are freed when the context is released or collected.
    """

    def __init__(self, model: Model | None = None, *, tools: Iterable[dict[str, Any]] = ()) -> None:
        """An empty context of `model`, or of the default one.

        `tools` are offered to the model in its own way: each a dict with `name`, `description` and `parameters` (a JSON
        Schema). A `Decoder` finds its calls in what it writes."""
        self._model = model or Model.load()
        with host_errors():
            self._handle: raw.Context | None = raw.Context.create(self._model.handle)
        offered = list(tools)
        self._turns = Turns.start(self._model, json.dumps(offered)) if offered else None

    @classmethod
    def _wrap(cls, model: Model, handle: raw.Context, turns: Turns | None) -> Context:
        made = cls.__new__(cls)
        made._model = model
        made._handle = handle
        made._turns = turns
        return made

    # Snapshots

    @classmethod
    def open(cls, model: Model, name: str) -> Context | None:
        """A fork of a saved context; None when there is none of that name."""
        with host_errors():
            handle = raw.Context.open(model.handle, name)
        return None if handle is None else cls._wrap(model, handle, None)

    @classmethod
    def take(cls, model: Model, name: str) -> Context | None:
        """Like `open`, and the name is gone."""
        with host_errors():
            handle = raw.Context.take(model.handle, name)
        return None if handle is None else cls._wrap(model, handle, None)

    @staticmethod
    def delete(model: Model, name: str) -> bool:
        """Forget a saved context; False when there was none."""
        with host_errors():
            return raw.Context.delete(model.handle, name)

    def save(self, name: str) -> None:
        """Save under a name of this user, replacing an older one."""
        with host_errors():
            self.handle.save(name)

    async def export(self) -> bytes:
        """The context as bytes, KV included, for any engine with the same model."""
        with host_errors():
            pending = self.handle.export()
        with pending:
            return base64.b64decode(unwrap(await loop.result(pending)))

    @classmethod
    def from_export(cls, model: Model, data: bytes) -> Context:
        """A context from what `export` gave."""
        with host_errors():
            handle = raw.Context.import_(model.handle, base64.b64encode(data).decode("ascii"))
        return cls._wrap(model, handle, None)

    # What it holds

    @property
    def model(self) -> Model:
        return self._model

    @property
    def page_size(self) -> int:
        return self._model.page_size

    @property
    def seq_len(self) -> int:
        """Number of tokens."""
        return self.handle.length()

    def __len__(self) -> int:
        return self.handle.length()

    def __bool__(self) -> bool:
        return True

    @property
    def tokens(self) -> list[int]:
        return self.handle.tokens()

    def text(self) -> str:
        """All tokens as text, special ones included."""
        return self._model.tokenizer().decode(self.tokens)

    # Growing

    def system(self, message: str) -> Context:
        """A system turn, by the model's own chat template."""
        return self.message("system", message)

    def user(self, message: str) -> Context:
        """A user turn."""
        return self.message("user", message)

    def assistant(self, message: str) -> Context:
        """A complete assistant turn, as if the model had written it."""
        return self.message("assistant", message)

    def message(self, role: str, content: str) -> Context:
        """A complete turn of any role the template knows."""
        return self._add(self._chat().message(role, content, self.seq_len))

    def turn(self, message: dict[str, Any]) -> Context:
        """A complete turn in OpenAI's form: an assistant's with `tool_calls`, for one."""
        return self._add(self._chat().turn(json.dumps(message), self.seq_len))

    def tool_result(self, call: ToolCall, content: str) -> Context:
        """What a tool answered to a call."""
        return self.turn({"role": "tool", "tool_call_id": call.id, "name": call.name, "content": content})

    def cue(self) -> Context:
        """Open the assistant's turn. `generate` does it by itself after turns."""
        return self._add(self._chat().cue(self.seq_len))

    def seal(self) -> Context:
        """Close the assistant's turn. The next turn does it by itself."""
        return self._add(self._chat().seal(self.seq_len))

    def append(self, tokens: Iterable[int]) -> Context:
        """Tokens as they are."""
        added = list(tokens)
        self._add(added)
        self._wrote(added)
        return self

    def append_text(self, text: str) -> Context:
        """Text as it is."""
        return self.append(self._model.tokenizer().encode(text))

    def truncate(self, n: int) -> None:
        """Remove the last `n` tokens (all, when there are fewer)."""
        length = max(0, self.seq_len - max(0, n))
        with host_errors():
            self.handle.truncate(length)
        if self._turns is not None:
            self._turns.truncated(length, self.handle.tokens)

    def fork(self) -> Context:
        """A second context with the same tokens, sharing memory until they differ."""
        with host_errors():
            handle = self.handle.fork()
        return self._wrap(self._model, handle, None if self._turns is None else self._turns.fork())

    async def flush(self) -> None:
        """Wait until the KV cache of what was appended is computed."""
        with self.handle.flush() as done:
            unwrap(await loop.result(done))

    # Running

    def generate(
        self,
        sampler: Sampler | None = None,
        *,
        max_tokens: int | None = None,
        stop: Iterable[int | str] | None = None,
        seed: int | None = None,
        window: int | None = None,
        grammar: GrammarSource | None = None,
        speculation: Speculation | None = None,
        probes: Iterable[Probe] = (),
        auto_flush: bool = True,
    ) -> Generator:
        """Decode from here: `async for step in ctx.generate(...)`, or `await ctx.generate(...).text()`.

        `stop`: ids that end the generation, instead of the model's own (none if empty); or strings, besides them.
        `window`: how far the engine may run ahead (1: lockstep). `grammar`: what the text must spell. `probes`:
        answered with every token, in `step.probes`. After turns, the assistant's turn is opened first unless
        `auto_flush` is False.
        """
        if auto_flush and self._turns is not None and self._turns.wants_cue:
            self.cue()
        return Generator(self, sampler or Sampler(), max_tokens, stop, seed, window, grammar, speculation, probes)

    def forward(self) -> Forward:
        """One explicit pass of the model."""
        return Forward(self)

    async def verify(
        self,
        tokens: Sequence[int],
        sampler: Sampler | None = None,
        *,
        parents: Sequence[int] | None = None,
        seed: int | None = None,
    ) -> list[int]:
        """One pass over guesses of what follows: `tokens[i]` after guess `parents[i]` (-1: after the context's last
        token; None: each after the one before it). The longest path of guesses that are the tokens drawn in their
        places joins the context. Returns that path, and the token drawn behind it, which does not."""
        return await verify(self, tokens, parents, sampler or Sampler.greedy(), seed)

    # Ending

    def release(self) -> None:
        """Free its pages now. May be called again."""
        handle, self._handle = self._handle, None
        if handle is not None:
            handle.__exit__(None, None, None)

    def __enter__(self) -> Context:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def _chat(self) -> Turns:
        if self._turns is None:
            self._turns = Turns.start(self._model)
        return self._turns

    def _add(self, tokens: list[int]) -> Context:
        if tokens:
            with host_errors():
                self.handle.append(tokens)
        return self

    def _wrote(self, tokens: list[int]) -> None:
        if self._turns is not None:
            self._turns.wrote(tokens)
