"""What the clients of the model launch, as coroutines over the real host functions."""

from __future__ import annotations

import json
from types import SimpleNamespace

from pie_runner.testing import Api


async def decode(api: Api, text: str) -> str:
    """Append a prompt and decode it in parts, a message per token; with `fork`, go on in a fork after each part."""
    given = json.loads(text)
    model = await api.call("model", "[static]model.load", "")
    context = await api.call("context", "[static]context.create", model)
    await api.call("context", "[method]context.append", context, given["prompt"])
    produced: list[int] = []
    for part in given["parts"]:
        spec = SimpleNamespace(
            sampler=SimpleNamespace(temperature=0.0, top_p=1.0, top_k=0),
            seed=None,
            stop_ids=[],
            max_tokens=part,
            window=given["window"],
            text=False,
        )
        run = await api.call("generation", "[static]run.open", context, spec)
        while True:
            step = await api.wait("generation.run", run, "next")
            for token in step.tokens:
                produced.append(token)
                await api.call("session", "send", str(token), "wait")
            if step.finish is not None or len(produced) >= given.get("stop_after", 1 << 30):
                break
        api.drop(run)
        if given.get("fork"):
            fork = await api.call("context", "[method]context.fork", context)
            api.drop(context)
            context = fork
    held = await api.call("context", "[method]context.tokens", context)
    return json.dumps({"produced": produced, "held": list(held)})


PROGRAMS = {"decode": decode}
