"""What a model's tokens mean: text, reasoning and tool calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

from pie_wire.errors import TooLarge

from pie_runner.decoding.call_grammar import call_grammar
from pie_runner.decoding.calls import tools_of
from pie_runner.decoding.decoder import Decoder
from pie_runner.host import checks
from pie_runner.host.methods import method
from pie_runner.host.model import ModelHandle
from pie_runner.host.offloaded import now_or_offloaded
from pie_runner.wasm.hostcall import Case, HostFunction, Pending

if TYPE_CHECKING:
    from pie_runner.wasm.fiber import Fiber


INLINE_TOKENS = 64
"""More are decoded on a worker thread: about 30 us each."""
MAX_TOKENS = 65_536
"""Of one call: a worker thread cannot be stopped."""


class Options(Protocol):
    """The WIT's `options`."""

    @property
    def reasoning(self) -> bool: ...
    @property
    def tools(self) -> bool: ...
    @property
    def starts_in_reasoning(self) -> bool | None: ...


class ToolFormat(NamedTuple):
    """The WIT's `tool-format`."""

    source: str
    opening: str
    closing: str


class Source(NamedTuple):
    """The WIT's `grammar-source`."""

    kind: str
    text: str


def create(_fiber: Fiber, handle: ModelHandle, options: Options) -> Decoder:
    """A decoder at the beginning of an answer."""
    return Decoder(
        handle.model,
        reasoning=options.reasoning,
        tools=options.tools,
        starts_in_reasoning=options.starts_in_reasoning,
    )


def feed(fiber: Fiber, decoder: Decoder, tokens: Sequence[int]) -> list[Case] | Pending:
    """Tokens in, events out."""
    if len(tokens) > MAX_TOKENS:
        raise TooLarge(f"a decoder takes at most {MAX_TOKENS} tokens at once, not {len(tokens)}: feed it in parts")
    given = checks.plain(tokens)
    return now_or_offloaded(fiber, lambda: decoder.feed(given), is_short=len(given) <= INLINE_TOKENS)


def format_of(_fiber: Fiber, handle: ModelHandle) -> ToolFormat:
    """How the model writes a call."""
    form, spell = handle.model.formats.calls, handle.model.alphabet.spell
    return ToolFormat(form.source, spell(form.openings[0]) if form.openings else "", spell(form.closing))


def grammar(_fiber: Fiber, handle: ModelHandle, tools: str) -> Source:
    """A grammar for calls of these tools."""
    model = handle.model
    offered = tools_of(checks.text(tools, "tools", checks.MAX_TOOLS))
    return Source("lark", call_grammar(model.formats.calls, model.alphabet, offered))


FUNCTIONS: Mapping[str, HostFunction] = {
    "[static]decoder.create": create,
    "[method]decoder.feed": feed,
    "[method]decoder.finish": method(Decoder.finish),
    "[method]decoder.reset": method(Decoder.reset),
    "format": format_of,
    "call-grammar": grammar,
}
