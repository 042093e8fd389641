"""What programs import to work beside the model.

    from inferlet import Context, Sampler

    async def main(prompt: str, max_tokens: int = 64) -> str:
        ctx = Context()
        ctx.user(prompt)
        return await ctx.generate(Sampler.top_p(0.7, 0.95), max_tokens=max_tokens).text()

`main` may be a plain function or a coroutine function; asyncio works (gather, sleep, wait_for, TaskGroup).
"""

from inferlet import adapters, chat, decoders, files, http, mcp, messaging, runtime, scheduling, session
from inferlet.children import Child, launch
from inferlet.context import Context
from inferlet.decoders import Decoder, ToolCall
from inferlet.errors import PieError
from inferlet.forward import Forward, Output, ProbeHandle, SampleHandle
from inferlet.generation import Generator, GenStep, RunStats, Speculation
from inferlet.grammar import Ebnf, Grammar, JsonSchema, Lark, Matcher, Regex
from inferlet.logits import LogitsRow
from inferlet.model import Detokenizer, Model, Tokenizer
from inferlet.pages import PageCount, Receipt
from inferlet.probes import Distribution, Entropy, Hidden, Logits, LogProbs, Resident
from inferlet.sample import Sampler

__all__ = [
    "Child",
    "Context",
    "Decoder",
    "Detokenizer",
    "Distribution",
    "Ebnf",
    "Entropy",
    "Forward",
    "GenStep",
    "Generator",
    "Grammar",
    "Hidden",
    "JsonSchema",
    "Lark",
    "LogProbs",
    "Logits",
    "LogitsRow",
    "Matcher",
    "Model",
    "Output",
    "PageCount",
    "PieError",
    "ProbeHandle",
    "Receipt",
    "Regex",
    "Resident",
    "RunStats",
    "SampleHandle",
    "Sampler",
    "Speculation",
    "Tokenizer",
    "ToolCall",
    "adapters",
    "chat",
    "decoders",
    "files",
    "http",
    "launch",
    "mcp",
    "messaging",
    "runtime",
    "scheduling",
    "session",
]
