"""text-completion for the benchmark: no stop ids, so that all streams are equally long, and the engine's pace or the
program's: in lockstep every token is a pass of its own, asked for by the program."""

from inferlet import Context, Forward, Sampler, session


async def main(prompt: str, max_tokens: int, lockstep: bool = False) -> int:
    with Context() as ctx:
        ctx.append_text(prompt)
        if not lockstep:
            async for step in ctx.generate(Sampler.greedy(), max_tokens=max_tokens, stop=[]):
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
