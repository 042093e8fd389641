"""What the clients of the model launch, as coroutines over the real host functions."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

from pie_runner.testing import Api

GREEDY = SimpleNamespace(
    temperature=0.0,
    top_p=1.0,
    top_k=0,
    min_p=0.0,
    typical_p=1.0,
    repetition_penalty=1.0,
    presence_penalty=0.0,
    frequency_penalty=0.0,
    bias=[],
    mask=None,
    min_tokens=0,
)


async def decode(api: Api, text: str) -> str:
    """Append a prompt and decode it in parts, a message per token; with `fork`, go on in a fork after each part."""
    given = json.loads(text)
    model = await api.call("model", "[static]model.load", "")
    context = await api.call("context", "[static]context.create", model)
    await api.call("context", "[method]context.append", context, given["prompt"])
    produced: list[int] = []
    for part in given["parts"]:
        spec = SimpleNamespace(
            sampler=GREEDY,
            seed=None,
            stop_ids=[],
            stop_strings=[],
            grammar=None,
            speculation=None,
            probes=[],
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


async def family(api: Api, text: str) -> str:
    """Launch children that decode, one of them detached, and wait for the others; each does the same while `depth`
    lasts."""
    given = json.loads(text)
    children: list[Any] = []
    for number, task in enumerate(given["tasks"]):
        program = "family" if given["depth"] else "decode"
        inner = {"depth": given["depth"] - 1, "tasks": given["tasks"]} if given["depth"] else task
        request = SimpleNamespace(program=program, input=json.dumps(inner), near=None, detached=number == 0)
        children.append(await api.call("children", "launch", request))
    for child in children[1:]:
        await api.wait("children.child", child)
    return "null"


async def produce(api: Api, text: str) -> str:
    """Push messages, and say of each that it is stored."""
    for message in json.loads(text)["messages"]:
        done = await api.call("messaging", "push", "jobs", message)
        await api.wait("futures.done", done)
        await api.call("session", "send", message, "wait")
    return "null"


DELIVERED: list[tuple[str, int]] = []
"""What consumers got, and how many had had it before. A program that dies with its runner cannot tell its client."""


async def consume(api: Api, text: str) -> str:
    """Pull messages, say which, and acknowledge each by the next pull; the last by returning, or never."""
    given = json.loads(text)
    for number in range(given["count"]):
        pending = await api.call("messaging", "pull", "jobs")
        delivery = await api.wait("messaging.pending-pull", pending)
        api.drop(pending)
        DELIVERED.append((delivery.text, delivery.redeliveries))
        await api.call("session", "send", json.dumps([delivery.text, delivery.redeliveries]), "wait")
        if given["fails"] and number == given["count"] - 1:
            raise ValueError("on purpose")
    return "null"


PROGRAMS = {"decode": decode, "family": family, "produce": produce, "consume": consume}
