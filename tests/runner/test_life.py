"""From start to terminal event, over real hubs and the real engine core."""

from __future__ import annotations

import json

from runner_programs import spec


async def complete(api, text):
    model = await api.call("model", "[static]model.load", "")
    tokenizer = await api.call("model", "[method]model.tokenizer", model)
    context = await api.call("context", "[static]context.create", model)
    ids = await api.call("model", "[method]tokenizer.encode", tokenizer, json.loads(text)["prompt"])
    await api.call("context", "[method]context.append", context, ids)
    run = await api.call("generation", "[static]run.open", context, spec(max_tokens=8))
    pieces = []
    while True:
        step = await api.wait("generation.run", run, "next")
        pieces.append(step.text)
        await api.call("session", "send", step.text, "wait")
        if step.finish:
            break
    total = await api.call("context", "[method]context.length", context)
    return json.dumps({"text": "".join(pieces), "finish": step.finish, "grew": total - len(ids)})


def test_a_completion_streams_and_returns(world):
    last = world.outcome(complete, text='{"prompt": "The capital of France is"}')

    result = json.loads(last.text)
    sent = [event.text for event in world.log() if event.kind == "message"]
    assert last.kind == "return"
    assert result["finish"] == "length"
    assert result["grew"] == 8
    assert "".join(sent) == result["text"]
    assert world.log()[0].kind == "started"
    world.run(0.2)
    assert world.engine.pages_owned == 0
    assert world.engine.contexts == 0
    assert not world.runner.processes
