"""One stream of the serving benchmark: distinct random prompts, no stop ids, one message per step."""

import random

from inferlet import Context, Sampler, session


async def main(seed: int, prompt_tokens: int, new_tokens: int) -> int:
    context = Context()
    ids = random.Random(seed)
    context.append(ids.randrange(1000, context.model.vocab_size - 1000) for _ in range(prompt_tokens))
    produced = 0
    async for step in context.generate(Sampler.greedy(), max_tokens=new_tokens, stop=[]):
        produced += len(step.tokens)
        session.send(str(len(step.tokens)))
    return produced
