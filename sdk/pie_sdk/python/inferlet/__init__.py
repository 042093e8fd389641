"""What programs import to work beside the model.

    from inferlet import Context, Sampler

    async def main(prompt: str, max_tokens: int = 64) -> str:
        ctx = Context()
        ctx.user(prompt)
        return await ctx.generate(Sampler.top_p(0.7, 0.95), max_tokens=max_tokens).text()

`main` may be a plain function or a coroutine function; asyncio works (gather, sleep, wait_for, TaskGroup).
"""

from inferlet import adapters, chat, http, runtime, scheduling, session
from inferlet.children import Child, launch
from inferlet.context import Context
from inferlet.errors import PieError
from inferlet.forward import Distribution, Forward, Logits, Output, ProbeHandle, SampleHandle
from inferlet.generation import Generator, GenStep
from inferlet.model import Detokenizer, Model, Tokenizer
from inferlet.pages import PageCount, Receipt
from inferlet.sample import Sampler

__all__ = [
    "Child",
    "Context",
    "Detokenizer",
    "Distribution",
    "Forward",
    "GenStep",
    "Generator",
    "Logits",
    "Model",
    "Output",
    "PageCount",
    "PieError",
    "ProbeHandle",
    "Receipt",
    "SampleHandle",
    "Sampler",
    "Tokenizer",
    "adapters",
    "chat",
    "http",
    "launch",
    "runtime",
    "scheduling",
    "session",
]
