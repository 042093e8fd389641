"""A tour of the world in each language: the real host, the real core, and one answer."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from pie_bakery import build, new, prepare_python_runtime
from pie_bakery.project import LANGUAGES, Language
from pie_bakery.rust import RustToolchain
from pie_runner.wasm.driver import Driver
from pie_wire.capabilities import Capabilities, Grants
from pie_wire.config import pie_home
from pie_wire.errors import Unsupported
from pie_wire.messages.common import ProgramKind
from pie_wire.messages.runner import Deliver, Start
from runner_world import World
from test_messaging import Store
from wasm_world import running_driver, with_programs

SCRATCH = Grants(filesystem=["scratch"])
GUESTS = Path(__file__).parent / "guests"


@pytest.fixture(scope="module")
def driver():
    with running_driver() as driver:
        yield driver


@pytest.fixture
def wasm(bare_world: World, driver: Driver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    prepare_python_runtime(pie_home())
    world = bare_world
    world.keep_files(tmp_path)
    world.add_engine()
    world.run(lambda: world.runner.engines.names() == ["tiny"] and world.runner.uplink.connected)
    with_programs(world, driver, tmp_path, memory=256 << 20)
    monkeypatch.setattr("pie_kvstore.names.pid", str)  # this world gives processes short names
    Store(world)
    return world


@pytest.fixture
def toolchain(request: pytest.FixtureRequest, missing: Callable[[str], None]) -> None:
    """Rust is the only one that pip does not bring."""
    if request.getfixturevalue("language") == "rust":
        try:
            RustToolchain.find()
        except Unsupported as exc:
            missing(exc.message)


def tour(world: World, artifact: bytes, kind: ProgramKind, pid: str = "p1") -> Any:
    """The answer of a program that takes the tour, and what it printed and sent on its way."""
    ref = world.store("tour", artifact, kind)
    text = '{"word": "h\\u00e9"}'
    world.send_start(Start(pid, ref, text, filename="main.py", capabilities=Capabilities(SCRATCH, SCRATCH)))
    world.run(lambda: any(event.kind == "message" for event in world.log(pid)) or world.ended(pid))
    world.deliver(Deliver(pid, text="hi"))
    world.deliver(Deliver(pid, binary=True), b"\x00\xff")
    world.run(lambda: world.ended(pid))
    log = world.log(pid)
    assert log[-1].kind == "return", log[-1].error
    world.run(0.3)
    assert (world.engine.contexts, world.engine.pages_owned) == (0, 0)
    heard = [(event.kind, event.text) for event in log[:-1] if event.kind not in ("progress", "started")]
    return msgspec.json.decode(log[-1].text), heard


@pytest.fixture
def answer(wasm: World) -> Any:
    """What the tour finds, as Python source that was not built finds it."""
    return tour(wasm, (GUESTS / "python" / "main.py").read_bytes(), "python")


def built(language: str, folder: Path) -> bytes:
    shutil.copytree(GUESTS / language, folder)
    return build(folder, None, pie_home()).read_bytes()


def test_the_tour_sees_something(answer: Any):
    found, heard = answer

    assert found["streams"][0][1] == "length"
    assert [len(tokens) for tokens, _ in found["streams"]] == [3, 5]
    assert found["closed"] == [True] * 4
    assert found["errors"] == ["not_found", "forbidden", "forbidden", "forbidden", "bad_request"]
    assert found["session"] == ["hi", [0, 255]]
    pieces = [text for kind, text in heard[4:]]
    assert [kind for kind, _ in heard] == ["stdout", "stderr", "message", "binary", *["message"] * len(pieces)]
    assert found["sent"] == ["".join(msgspec.json.decode(piece)["piece"] for piece in pieces), "length"]
    assert pieces


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("toolchain")
@pytest.mark.parametrize("language", ["rust", "typescript", "python"])
def test_every_language_sees_the_same(answer: Any, wasm: World, tmp_path: Path, language: str):
    """`answer` was given by source that runs in the generic component."""
    assert tour(wasm, built(language, tmp_path / language), "component", "p2") == answer


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("toolchain")
@pytest.mark.parametrize("language", LANGUAGES)
def test_a_new_program_answers(wasm: World, tmp_path: Path, language: Language):
    folder = tmp_path / "fresh"
    new(folder, language)
    artifact = build(folder, None, pie_home()).read_bytes()

    wasm.send_start(Start("p1", wasm.store("fresh", artifact, "component"), '{"prompt": "hey", "max_tokens": 4}'))
    wasm.run(wasm.ended)

    log = wasm.log()
    assert log[-1].kind == "return", log[-1].error
    sent = [event.text for event in log if event.kind == "message"]
    assert "".join(sent) == msgspec.json.decode(log[-1].text)
    assert len(sent) == 4


TOOLS = """
import json

from inferlet import Context, Decoder, Model, ToolCall
from inferlet.decoders import call_grammar, tool_format
from inferlet.turns import Turns

CALL = '<tool_call>\\n{"name": "now", "arguments": {"zone": "utc"}}\\n</tool_call>'


def main(input=None):
    model = Model.load()
    tools = [{"name": "now", "description": "the time"}]
    turns = Turns.start(model, json.dumps(tools))
    offered = model.tokenizer().decode(turns.message("user", "hi", 0))
    ctx = Context(model).user("hi").cue()
    decoder = Decoder(model)
    tokens = model.tokenizer().encode("well " + CALL)
    events = decoder.feed(tokens[:9]) + decoder.feed(tokens[9:]) + decoder.finish()
    [call] = [event for event in events if isinstance(event, ToolCall)]
    ctx.append(tokens).tool_result(call, "noon").cue()
    ctx.turn({"role": "assistant", "content": "", "tool_calls": [call.message]})
    decoder.reset()
    form = tool_format(model)
    return [
        offered, ctx.text(), [type(event).__name__ for event in events], call.arguments,
        [form.source, form.opening], call_grammar(model, tools).text.startswith("start:"), len(decoder.feed([65])),
    ]
"""


def test_a_program_offers_tools_and_finds_their_calls(wasm: World):
    wasm.send_start(Start("p1", wasm.store("tools", TOOLS.encode(), "python"), "null", filename="main.py"))
    wasm.run(lambda: wasm.ended("p1"))
    end = wasm.log("p1")[-1]

    assert end.kind == "return", end.error
    offered, text, events, arguments, form, is_grammar, fed = msgspec.json.decode(end.text)
    assert offered.startswith("<|system|>You can call")
    assert offered.endswith("<|user|>hi<|end|>")
    assert "<|user|><tool_response>\nnoon\n</tool_response><|end|><|assistant|>" in text
    assert text.count('{"name": "now", "arguments": {"zone": "utc"}}') == 2
    assert events == ["Text", "CallStart", "ToolCall", "Done"]
    assert (arguments, form, is_grammar, fed) == ({"zone": "utc"}, ["fallback", "<tool_call>"], True, 1)
