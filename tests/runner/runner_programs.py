"""Programs that several tests run, and the records that programs pass, with defaults."""

from __future__ import annotations

from types import SimpleNamespace

from pie_runner.wasm.hostcall import Case

_SAMPLER = {
    "temperature": 0.0,
    "top_p": 1.0,
    "top_k": 0,
    "min_p": 0.0,
    "typical_p": 1.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "bias": [],
    "mask": None,
    "min_tokens": 0,
}
_SPEC = {
    "seed": None,
    "stop_ids": [],
    "stop_strings": [],
    "grammar": None,
    "speculation": None,
    "probes": [],
    "max_tokens": 5,
    "window": None,
    "text": True,
}
_PASS = {"tokens": [], "positions": [], "mask": Case("causal"), "draws": [], "probes": []}


def sampler(**fields):
    return SimpleNamespace(**(_SAMPLER | fields))


GREEDY = sampler()


def spec(**fields):
    return SimpleNamespace(**({"sampler": GREEDY} | _SPEC | fields))


def draw(rows, drawn_by=GREEDY, **fields):
    return SimpleNamespace(
        **({"rows": rows, "sampler": drawn_by, "seed": None, "start": None, "stop_ids": []} | fields)
    )


def probe(row, tag, value=None):
    return SimpleNamespace(row=row, kind=Case(tag, value))


def distribution(temperature, k):
    return SimpleNamespace(temperature=temperature, k=k)


def pass_(**fields):
    return SimpleNamespace(**(_PASS | fields))


def guesses(tokens, parents, drawn_by=GREEDY, seed=None):
    return SimpleNamespace(tokens=tokens, parents=parents, sampler=drawn_by, seed=seed)


async def context_of(api, tokens):
    """A context of the default model with these tokens."""
    model = await api.call("model", "[static]model.load", "")
    context = await api.call("context", "[static]context.create", model)
    await api.call("context", "[method]context.append", context, tokens)
    return context


async def steps_of(api, context, **fields):
    """Every step of a run."""
    run = await api.call("generation", "[static]run.open", context, spec(**fields))
    steps = []
    while not steps or steps[-1].finish is None:
        steps.append(await api.wait("generation.run", run, "next"))
    api.drop(run)
    return steps


async def output_of(api, context, **fields):
    """What a pass yields."""
    pending = await api.call("forward", "execute", context, pass_(**fields))
    return await api.wait("forward.pending-output", pending)


async def forever(api, text):
    done = await api.call("clocks", "sleep", 10**18)
    await api.wait("futures.done", done)
    return "null"


async def generating(api, text):
    context = await context_of(api, [1] * 40)
    run = await api.call("generation", "[static]run.open", context, spec(max_tokens=400))
    while True:
        await api.wait("generation.run", run, "next")
