"""Scripts: what a row answers depends on the tokens it sees, and on nothing else."""

from __future__ import annotations

import json

import pytest
from pie_engine.limits import Limits
from pie_engine.models import byte_tokenizer
from pie_engine.models.model_device import ModelDevice
from pie_engine.models.scripted import load_script
from pie_wire.errors import PieError
from pie_wire.messages import engine as wire


@pytest.fixture
def scripted(tmp_path, bench):
    """Make a bench over a script."""

    def make(**script: object):
        path = tmp_path / "script.json"
        path.write_text(json.dumps(script))
        model = load_script(path)
        model.allocate(64, 4)
        return type(bench)(ModelDevice(model), Limits(64, 4, model.info.max_context, model.info.vocab_size))

    return make


def say(bench, text: str, **spec: object) -> str:
    run = bench.open_run(bench.create(byte_tokenizer.encode(text)), 100, stop=list(byte_tokenizer.EOS_IDS), **spec)
    bench.settle()
    assert bench.runner.ends[run].reason == "stop"
    return byte_tokenizer.decode(bench.runner.tokens.get(run, []))


def test_first_matching_rule_speaks(scripted):
    bench = scripted(rules=[{"when": "(?i)paris", "replies": ["France."]}, {"replies": ["What?"]}])
    assert say(bench, "Where is Paris?") == "France."
    assert say(bench, "Where is Rome?") == "What?"


def test_replies_follow_each_other(scripted):
    bench = scripted(rules=[{"replies": ["one", "two"]}])
    assert say(bench, "q") == "one"
    assert say(bench, "q one<|im_end|> q") == "two"
    assert say(bench, "q one<|im_end|> q two<|im_end|> q") == ""


def test_tokens_and_logits(scripted):
    bench = scripted(
        rules=[{"when": "t", "replies": [[104, 105]]}, {"replies": [{"logits": [{"65": 1.0, "66": 1.0}]}]}]
    )
    assert say(bench, "t") == "hi"
    drawn = {say(bench, "x", sampler=wire.SamplerSpec(1.0), seed=seed)[:1] for seed in range(12)}
    assert drawn == {"A", "B"}


def test_lockstep_says_the_same(scripted):
    bench = scripted(rules=[{"replies": ["steady"]}])
    context = bench.create(byte_tokenizer.encode("q"))
    said: list[int] = []
    for _ in range(6):
        number = bench.send(wire.Forward(context, 0, said[-1:], [wire.Output(0)]))
        bench.settle()
        said.append(bench.runner.outputs[number][0].token)
    assert byte_tokenizer.decode(said) == "steady"


def test_speaks_with_a_models_tokenizer(scripted, smollm2):
    bench = scripted(rules=[{"replies": ["The capital is Paris."]}], tokenizer=str(smollm2))
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(smollm2 / "tokenizer.json"))
    run = bench.open_run(bench.create(tokenizer.encode("Where?").ids), 50, stop=[2])
    bench.settle()
    assert tokenizer.decode(bench.runner.tokens[run]) == "The capital is Paris."


@pytest.mark.parametrize(
    "script",
    [
        {"rules": [{"replies": [[999]]}]},
        {"rules": [{"when": "(", "replies": []}]},
        {"rules": [{"replies": [{"logits": [{}]}]}]},
        {"rules": [{"reply": "x"}]},
        {"rules": "x"},
        {"rules": [], "tokenizer": "/nowhere"},
    ],
)
def test_bad_scripts_are_refused(scripted, script):
    with pytest.raises(PieError) as caught:
        scripted(**script)
    assert caught.value.code in {"bad_field", "not_found"}
