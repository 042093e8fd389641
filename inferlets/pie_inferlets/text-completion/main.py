"""Continues a text: sends each piece as it is decoded, returns the whole continuation."""

from inferlet import Context, Model, Sampler


async def main(
    prompt: str,
    max_tokens: int = 128,
    temperature: float = 0.6,
    top_p: float = 0.95,
    top_k: int = 0,
    seed: int | None = None,
    stop: tuple[str, ...] = (),
    model: str = "",
) -> str:
    with Context(Model.load(model)) as ctx:
        ctx.append_text(prompt)
        sampler = Sampler.top_k_top_p(temperature, top_k, top_p)
        return await ctx.generate(sampler, max_tokens=max_tokens, seed=seed, stop=stop or None).send()
