"""Two forks of one context, decoded concurrently. The shared beginning is computed once."""

import asyncio

from inferlet import Context, Sampler, session


async def main(
    question: str = "Should a small team write its own database?",
    views: tuple[str, ...] = ("in favour", "against"),
    max_tokens: int = 64,
    temperature: float = 0.6,
) -> dict[str, str]:
    root = Context().system("You argue briefly and clearly for the side you are given.")
    await root.flush()

    async def argue(view: str) -> str:
        with root.fork() as ctx:
            ctx.user(f"{question} Argue {view}.")
            pieces = []
            async for step in ctx.generate(Sampler.top_p(temperature), max_tokens=max_tokens):
                session.send({"view": view, "delta": step.text})
                pieces.append(step.text)
            return "".join(pieces)

    answers = await asyncio.gather(*map(argue, views))
    return dict(zip(views, answers, strict=True))
