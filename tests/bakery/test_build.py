"""Programs in three languages, built from source and run."""

from __future__ import annotations

import re
import sys
import textwrap
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pie_bakery import BuildError, build
from pie_bakery.folders import sdk_folder
from pie_bakery.rust import RustToolchain
from pie_bakery.rust_bindings import rust_bindings
from pie_bakery.wit import Wit
from pie_runner.wasm.engine import WasmEngine
from pie_runner.wasm.program import Program
from pie_runner.wasm.world import offered_world
from pie_wire.config import pie_home
from pie_wire.errors import Unsupported
from wasmtime.component import Component

sys.path.insert(0, str(Path(__file__).parents[1] / "runner" / "wasm"))

from lab import Lab, Launch

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


def run(lab: Lab, program: Program, text: str = "null") -> Launch:
    launch = lab.launch(program, text)
    lab.drive(lambda: launch.outcome is not None)
    return launch


@pytest.mark.usefixtures("rust")
def test_rust(lab: Lab, tmp_path: Path):
    source = """
        use inferlet::{clocks, join_all, json::Value, println, runtime, sleep, Model, Result, wait::Wait, Waitable};
        use std::{future::Future, pin::Pin, task::{Context, Poll}, time::Duration};

        inferlet::main!(main);

        /// Waits; beside it somebody gives up waiting for the same.
        struct Patient<'a, W: Waitable>(Wait<'a, W>, Option<Wait<'a, W>>);

        impl<'a, W: Waitable> Future for Patient<'a, W> {
            type Output = W::Output;

            fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<W::Output> {
                let polled = Pin::new(&mut self.0).poll(context);
                if let Some(mut impatient) = self.1.take() {
                    assert!(Pin::new(&mut impatient).poll(context).is_pending());
                }
                polled
            }
        }

        async fn main(input: Value) -> Result<Value> {
            println!("{}", runtime::models().join(" "));
            join_all((1..4).map(|i| sleep(Duration::from_millis(i)))).await;
            let timer = clocks::sleep(50_000_000);
            Patient(timer.wait(), Some(timer.wait())).await?;
            Model::load(input.get("model").as_str().unwrap_or(""))?;
            Ok(input)
        }
    """
    folder = write(tmp_path, Cargo_toml=CARGO, src__lib_rs=source.replace("Model, Result", "model::Model, Result"))

    component = build(folder, None, pie_home())
    program = load(lab, component)
    good = run(lab, program, '{"text": "h\\u00e9 \\ud83d\\ude00", "list": [1, -2.5, true, null]}')
    bad = run(lab, program, '{"model": "none"}')

    assert (good.value, good.stdout) == ({"text": "hé 😀", "list": [1, -2.5, True, None]}, "letters\n")
    interfaces = {interface for interface, _ in program.imports.functions}
    assert interfaces == {f"pie:inferlet/{name}" for name in ("clocks", "futures", "log", "model", "runtime")}
    assert component.stat().st_size < 150_000
    assert bad.instance.cause == "not_found"
    assert "There is no model 'none'" in bad.error.message


def test_typescript(lab: Lab, tmp_path: Path):
    source = """
        import { ready, sleep, PieError } from "inferlet";
        import { sleep as begin } from "pie:inferlet/clocks@0.1.0";
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
          const timer = begin(2e6);
          await Promise.all([ready(timer), ready(timer)]);
          console.log("seen", seen);
          Model.load(input.model ?? "")[Symbol.dispose]();
          return { text: input.text, seen };
        }
    """
    folder = write(tmp_path, main_ts=source)

    component = build(folder, None, pie_home())
    program = load(lab, component)
    good = run(lab, program, '{"text": "hé 😀"}')
    bad = run(lab, program, '{"model": "none"}')

    assert (good.value, good.stdout) == ({"text": "hé 😀", "seen": [0, 1, 2]}, "seen [0,1,2]\n")
    assert bad.instance.cause == "not_found"
    assert "There is no model 'none'" in bad.error.message


def wheel(folder: Path, name: str, source: str) -> Path:
    """A pure-Python package as its index would have it."""
    path = folder / f"{name}-1.0-py3-none-any.whl"
    info = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}/__init__.py", source)
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return path


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_python(lab: Lab, tmp_path: Path):
    source = """
        import asyncio
        import random

        import helper
        import loud
        from inferlet import Model


        async def main(model: str = "", text: str = "", late: bool = False):
            await asyncio.gather(asyncio.sleep(0.001), asyncio.sleep(0.002))
            Model.load(model)
            if late:
                import nothing_of_the_kind
            return [loud.shout(helper.twice(text)), random.random()]
    """
    helper = "def twice(text):\n    return text * 2\n"
    folder = write(tmp_path / "mine", main_py=source, helper_py=helper)
    made = wheel(tmp_path, "loud", "def shout(text):\n    return text.upper()\n")
    (folder / "requirements.txt").write_text(f"loud @ {made.as_uri()}\n")

    component = build(folder, None, pie_home())
    program = load(lab, component)
    good = [run(lab, program, '{"text": "hé"}') for _ in range(2)]
    bad = run(lab, program, '{"model": "none"}')
    late = run(lab, program, '{"late": true}')

    assert [launch.value[0] for launch in good] == ["HÉHÉ", "HÉHÉ"]
    assert good[0].value[1] != good[1].value[1], "the generator's state was baked in"
    assert bad.instance.cause == "not_found"
    assert 'main.py", line 12, in main' in bad.error.message
    assert "No module named 'nothing_of_the_kind'" in late.error.message


@pytest.mark.slow
@pytest.mark.usefixtures("rust")
def test_a_compilers_words_reach_the_author(tmp_path: Path):
    folder = write(tmp_path, Cargo_toml=CARGO, src__lib_rs="inferlet::main!(nowhere);\n")

    with pytest.raises(BuildError, match="cannot find value `nowhere`"):
        build(folder, None, pie_home())


def test_a_wrong_type_fails_the_build(tmp_path: Path):
    source = """
        import { Context } from "inferlet";
        export const main = () => Context.create().generate({ maxTokens: "many" });
    """

    with pytest.raises(BuildError, match=r"main.ts.*'string' is not assignable to type 'number'"):
        build(write(tmp_path, main_ts=source), None, pie_home())


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_module_that_is_not_there_fails_the_build(tmp_path: Path):
    with pytest.raises(BuildError, match="No module named 'nowhere'"):
        build(write(tmp_path, main_py="import nowhere\n"), None, pie_home())


@pytest.mark.usefixtures("rust")
@pytest.mark.slow
def test_every_function_of_the_world_links(lab: Lab, tmp_path: Path):
    """The runner compares the types of all imports with those that it has."""
    bindings = rust_bindings(Wit.read(sdk_folder() / "wit", "inferlet"))
    named = re.findall(r"^(?:pub mod (\w+)|    impl (\w+) |(?:    |        )pub fn ([\w#]+)\()", bindings, re.MULTILINE)
    paths: list[str] = []
    module = ""
    owner = ""
    for module_, owner_, function in named:
        module, owner = (module_, "") if module_ else (module, owner_ or owner)
        if function:
            paths.append(f"inferlet::{module}::{owner}{'::' if owner else ''}{function}")
    touched = "\n".join(f"    used += unsafe {{ std::ptr::read_volatile(&({path} as usize)) }};" for path in paths)
    source = f"""
use inferlet::{{json::Value, Result}};
inferlet::main!(main);
async fn main(_: Value) -> Result<Value> {{
    let mut used = 0usize;
{touched}
    Ok(Value::Bool(used > 0))
}}
"""
    component = build(write(tmp_path, Cargo_toml=CARGO, src__lib_rs=source), None, pie_home())

    program = load(lab, component)

    drops = {key for key in offered_world() if key[1].startswith("[resource-drop]")}
    assert set(offered_world()) - drops == set(program.imports.functions) - drops
