"""A real model that may only write calls of tools writes valid ones, and goes on from their results."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from e2e_stack import Stack

pytestmark = pytest.mark.slow

PROGRAM = """
from inferlet import Context, Decoder, Model, Sampler, ToolCall
from inferlet.decoders import BadCall, call_grammar

WEATHER = {
    "name": "get_weather",
    "description": "The weather at a place",
    "parameters": {
        "type": "object",
        "properties": {
            "place": {"type": "string", "maxLength": 20},
            "days": {"type": "integer", "minimum": 1, "maximum": 7},
        },
        "required": ["place", "days"],
        "additionalProperties": False,
    },
}


async def main() -> list:
    model = Model.load()
    found = []
    for seed in range(3):
        with Context(model, tools=[WEATHER]) as ctx:
            ctx.user("What will the weather be in Paris in the next three days?").cue()
            decoder, events = Decoder(model), []
            grammar = call_grammar(model, [WEATHER])
            run = ctx.generate(Sampler.top_p(1.0, 0.95), max_tokens=200, seed=seed, grammar=grammar)
            async for step in run:
                events += decoder.feed(step.tokens)
            events += decoder.finish()
            calls = [event for event in events if isinstance(event, ToolCall)]
            answer = await ctx.tool_result(calls[0], "sunny").cue().generate(max_tokens=8).text()
            found.append({
                "calls": [[call.name, call.arguments] for call in calls],
                "bad": sum(isinstance(event, BadCall) for event in events),
                "answer": answer,
            })
    return found
"""


def test_calls_by_grammar_are_valid(real: Stack, tmp_path: Path):
    program = tmp_path / "tools.py"
    program.write_text(PROGRAM)

    done = real.pie("run", str(program), within=240)

    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout)
    assert len(answers) == 3
    for answer in answers:
        assert answer["calls"]
        assert answer["bad"] == 0
        assert answer["answer"]
        for name, arguments in answer["calls"]:
            assert name == "get_weather"
            assert set(arguments) == {"place", "days"}
            assert isinstance(arguments["place"], str)
            assert 1 <= arguments["days"] <= 7
