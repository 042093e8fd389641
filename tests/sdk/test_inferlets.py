"""The built-in inferlets run as they are shipped."""

from __future__ import annotations

import json
import tomllib
from importlib.resources import files
from typing import Any

import pytest
from lab import Lab, Launch
from pie_runner.wasm.program import Program

NAMES = ["hello", "text-completion", "parallel-generation", "chat"]


def source(name: str) -> str:
    return files("pie_inferlets").joinpath(name, "main.py").read_text()


def run(lab: Lab, python: Program, name: str, value: object, **options: Any) -> Launch:
    return lab.run(python, source(name), value, **options)


@pytest.mark.parametrize("name", NAMES)
def test_manifest_and_program_agree(lab: Lab, python: Program, name: str):
    manifest = tomllib.loads(files("pie_inferlets").joinpath(name, "Pie.toml").read_text())
    probe = (
        source(name) + "\nimport inspect\n_real = main\ndef main(): return list(inspect.signature(_real).parameters)"
    )

    parameters = lab.run(python, probe).value

    assert manifest["package"]["name"] == name
    assert manifest["package"]["description"]
    assert list(manifest["parameters"]) == parameters


def test_hello(lab: Lab, python: Program):
    launch = run(lab, python, "hello", {"name": "Ada"})

    assert launch.value == "Hello, Ada!"
    assert launch.stdout == "process p-1 of local, Pie 1.2.3\n"


def test_text_completion_streams_and_returns(lab: Lab, python: Program):
    launch = run(lab, python, "text-completion", {"prompt": "ab", "max_tokens": 4, "temperature": 0})

    assert launch.value == "cdef"
    assert launch.instance.sent == ["c", "d", "e", "f"]


def test_text_completion_stops(lab: Lab, python: Program):
    launch = run(lab, python, "text-completion", {"prompt": "ab", "max_tokens": 9, "stop": ["f"], "seed": 3})

    assert launch.value == "cde"


def test_parallel_generation_decodes_two_forks_at_once(lab: Lab, python: Program):
    launch = run(lab, python, "parallel-generation", {"question": "q?", "views": ["pro", "con"], "max_tokens": 20})

    views = [json.loads(text)["view"] for text in launch.instance.sent]
    assert launch.value == {"pro": "?@ABCDEFGHIJKLMNOPQR", "con": "?@ABCDEFGHIJKLMNOPQR"}
    assert views.count("pro") == views.count("con") == 20
    assert views not in (sorted(views), sorted(views, reverse=True)), "neither waits for the other to end"


def test_chat_answers_once(lab: Lab, python: Program):
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    launch = run(lab, python, "chat", {"messages": messages, "max_tokens": 2})

    assert launch.value == {
        "text": "?@",
        "finish_reason": "length",
        "usage": {"prompt_tokens": len("<system>s;<user>u;<assistant>"), "completion_tokens": 2},
    }
    assert [json.loads(text) for text in launch.instance.sent] == [{"delta": "?"}, {"delta": "@"}]


def test_chat_goes_on_turn_by_turn(lab: Lab, python: Program):
    launch = run(lab, python, "chat", {"interactive": True, "max_tokens": 1}, inbox=["hi", "more", ""])

    sent = [json.loads(text) for text in launch.instance.sent]
    assert [list(message) for message in sent] == [["delta"], ["end"], ["delta"], ["end"]]
    assert sent[3]["end"]["usage"]["prompt_tokens"] == len("<user>hi;<assistant>?;<user>more;<assistant>")


def test_chat_with_nothing_to_answer(lab: Lab, python: Program):
    assert "there is nothing to answer" in str(run(lab, python, "chat", {}).error)
