"""text-completion for the benchmark: no stop ids, so that all streams are equally long.

In `stream` the program sends each piece of text that the engine decodes ahead; in `send` the runner does it in its
place; in `lockstep` every token is a pass of its own, asked for by the program."""

from inferlet import Context, Forward, Sampler, session


async def main(prompt: str, max_tokens: int, mode: str = "stream") -> int:
    with Context() as ctx:
        ctx.append_text(prompt)
        if mode != "lockstep":
            generation = ctx.generate(Sampler.greedy(), max_tokens=max_tokens, stop=[])
            if mode == "send":
                await generation.send()
                return max_tokens
            async for step in generation:
                session.send(step.text)
            return max_tokens
        fed = []
        for _ in range(max_tokens):
            step = Forward(ctx).input(fed)
            drawn = step.sample([0], Sampler.greedy())
            token = (await step.execute()).token(drawn)
            session.send(str(token))
            fed = [token]
        return max_tokens
