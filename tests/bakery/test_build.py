"""Programs in three languages, built from source and run."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pie_bakery import build
from pie_bakery.rust import RustToolchain
from pie_runner.wasm.engine import WasmEngine
from pie_runner.wasm.program import Program
from pie_runner.wasm.world import offered_world
from pie_wire.config import pie_home
from pie_wire.errors import Unsupported
from wasmtime.component import Component

sys.path.insert(0, str(Path(__file__).parents[1] / "runner" / "wasm"))

from lab import Lab

CARGO = """
[package]
name = "small"
version = "0.1.0"
edition = "2021"

[lib]
crate-type = ["cdylib"]

[dependencies]
inferlet = { path = ".pie/inferlet" }

[profile.release]
opt-level = "s"
lto = true
strip = true
"""


@pytest.fixture(scope="session")
def rust(missing: Callable[[str], None]) -> None:
    try:
        RustToolchain.find()
    except Unsupported as exc:
        missing(exc.message)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    engine = WasmEngine()
    made = Lab(engine)
    yield made
    made.close()
    engine.close()


def write(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
    return folder


def load(lab: Lab, component: Path) -> Program:
    engine = lab.host.engine
    return Program(engine, Component(engine.raw, component.read_bytes()), offered_world())


def run(lab: Lab, component: Path, text: str = "null"):
    launch = lab.launch(load(lab, component), text)
    lab.drive(lambda: launch.outcome is not None)
    return launch


@pytest.mark.usefixtures("rust")
def test_rust(lab: Lab, tmp_path: Path):
    source = """
        use inferlet::{join_all, json::Value, println, runtime, sleep, Model, Result};
        use std::time::Duration;

        inferlet::main!(main);

        async fn main(input: Value) -> Result<Value> {
            println!("{}", runtime::models().join(" "));
            join_all((1..4).map(|i| sleep(Duration::from_millis(i)))).await;
            Model::load(input.get("model").as_str().unwrap_or(""))?;
            Ok(input)
        }
    """
    folder = write(tmp_path, Cargo_toml=CARGO, src__lib_rs=source.replace("Model, Result", "model::Model, Result"))

    component = build(folder, None, pie_home())
    good = run(lab, component, '{"text": "h\\u00e9 \\ud83d\\ude00", "list": [1, -2.5, true, null]}')
    bad = run(lab, component, '{"model": "none"}')

    assert (good.value, good.stdout) == ({"text": "hé 😀", "list": [1, -2.5, True, None]}, "letters\n")
    interfaces = {interface for interface, _ in load(lab, component).imports.functions}
    assert interfaces == {f"pie:inferlet/{name}" for name in ("clocks", "futures", "log", "model", "runtime")}
    assert component.stat().st_size < 150_000
    assert bad.instance.cause == "not_found"
    assert "There is no model 'none'" in bad.error.message


def test_typescript(lab: Lab, tmp_path: Path):
    source = """
        import { sleep, PieError } from "inferlet";
        import { Model } from "pie:inferlet/model@0.1.0";

        async function* count(n: number) {
          for (let i = 0; i < n; i++) {
            await sleep(1);
            yield i;
          }
        }

        export async function main(input: { model?: string; text?: string }) {
          const seen: number[] = [];
          for await (const i of count(3)) seen.push(i);
          await Promise.all([sleep(2), sleep(1)]);
          console.log("seen", seen);
          Model.load(input.model ?? "")[Symbol.dispose]();
          return { text: input.text, seen };
        }
    """
    folder = write(tmp_path, main_ts=source)

    component = build(folder, None, pie_home())
    good = run(lab, component, '{"text": "hé 😀"}')
    bad = run(lab, component, '{"model": "none"}')

    assert (good.value, good.stdout) == ({"text": "hé 😀", "seen": [0, 1, 2]}, "seen [0,1,2]\n")
    assert bad.instance.cause == "not_found"
    assert "There is no model 'none'" in bad.error.message


@pytest.mark.slow
def test_python(lab: Lab, tmp_path: Path):
    source = """
        import asyncio

        import helper
        from inferlet import Model


        async def main(model: str = "", text: str = ""):
            await asyncio.gather(asyncio.sleep(0.001), asyncio.sleep(0.002))
            Model.load(model)
            return helper.shout(text)
    """
    helper = "def shout(text):\n    return text.upper()\n"
    folder = write(tmp_path, main_py=source, helper_py=helper)

    component = build(folder, None, pie_home())
    good = run(lab, component, '{"text": "hé"}')
    bad = run(lab, component, '{"model": "none"}')

    assert good.value == "HÉ"
    assert bad.instance.cause == "not_found"
    assert 'main.py", line 10, in main' in bad.error.message
