"""Programs that mean harm, and what must hold after each."""

from __future__ import annotations

import http.server
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from pie_bakery import prepare_python_runtime
from pie_runner.wasm.driver import Driver
from pie_runner.wasm.program import Program
from pie_runner.wasm.rests import Rests
from pie_runner.wasm_programs import PYTHON
from pie_wire.config import pie_home

sys.path.insert(0, str(Path(__file__).parent))

from attacks import Attack, Slices
from runner_world import World
from wasm_world import running_driver, with_programs


@pytest.fixture(scope="session")
def wasm_driver() -> Iterator[Driver]:
    prepare_python_runtime(pie_home())
    with running_driver() as driver:
        yield driver


class _Answers(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-length", "1")
        self.end_headers()
        self.wfile.write(b"a")

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture(scope="session")
def answering() -> Iterator[int]:
    """The port of an HTTP server that answers all requests."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


@pytest.fixture(scope="session")
def loaded() -> dict[str, Program]:
    """The Python component, once it is there: to load it takes longer than most of these tests."""
    return {}


@pytest.fixture
def attack(world: World, wasm_driver: Driver, loaded: dict[str, Program], tmp_path: Path) -> Iterator[Attack]:
    """After the test nothing may be left, and the next program must run."""
    world.keep_files(tmp_path)
    wasm_driver._rests = Rests()  # what other tests have used up
    with_programs(world, wasm_driver, tmp_path, Slices, memory=64 << 20, cpu_seconds=1.0)
    world.host._loaded.update(loaded)
    made = Attack(world)
    yield made
    assert made.outcome(b"def main():\n    return 1\n", kind="python") == "return"
    loaded[PYTHON] = world.host._loaded[PYTHON]
    world.run(0.3)
    assert (world.engine.contexts, world.engine.pages_owned) == (0, 0)
    assert not wasm_driver.fibers
    world.runner.facilities.grammars.close()
