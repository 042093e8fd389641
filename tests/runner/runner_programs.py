"""Programs that several tests run."""

from __future__ import annotations

from types import SimpleNamespace

GREEDY = SimpleNamespace(temperature=0.0, top_p=1.0, top_k=0)


def spec(**fields):
    return SimpleNamespace(
        **({"sampler": GREEDY, "seed": None, "stop_ids": [], "max_tokens": 5, "window": None, "text": True} | fields)
    )


async def forever(api, text):
    done = await api.call("clocks", "sleep", 10**18)
    await api.wait("futures.done", done)
    return "null"


async def generating(api, text):
    model = await api.call("model", "[static]model.load", "")
    context = await api.call("context", "[static]context.create", model)
    await api.call("context", "[method]context.append", context, [1] * 40)
    run = await api.call("generation", "[static]run.open", context, spec(max_tokens=400))
    while True:
        await api.wait("generation.run", run, "next")
