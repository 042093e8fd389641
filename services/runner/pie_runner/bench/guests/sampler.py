"""The sampler of the benchmark in Python: `steps` tokens, drawn by the program (`custom`) or by the engine."""

from inferlet import Context, Forward
from inferlet.probes import Resident
from inferlet.sample import Sampler


async def main(steps: int = 0, custom: bool = False) -> int:
    context = Context()
    draw = draw_here if custom else draw_there
    token = 1
    for _ in range(steps):
        token = await draw(context.forward().input([token]))
    return token


async def draw_there(forward: Forward) -> int:
    handle = forward.sample([0], Sampler.top_p(0.8, 0.9))
    return (await forward.execute()).token(handle)


async def draw_here(forward: Forward) -> int:
    handle = forward.probe(0, Resident())
    with (await forward.execute()).row(handle) as row:
        return row.temperature(0.8).keep_top_p(0.9).draw()
