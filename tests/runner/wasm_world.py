"""A runner's core with real Wasm in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pie_runner.disk_cache import DiskCache
from pie_runner.host import TABLE
from pie_runner.process import payer_of
from pie_runner.service import find_python_runtime
from pie_runner.wasm.cache import CodeCache
from pie_runner.wasm.driver import Driver
from pie_runner.wasm.engine import WasmEngine
from pie_runner.wasm.host import Host
from pie_runner.wasm_programs import WasmPrograms
from pie_wire.config import pie_home
from pie_wire.errors import Terminated
from runner_world import World


class Programs(WasmPrograms):
    """As the shell runs them, but for how long a turn may be."""

    budget = 0.5

    def run_ready(self) -> None:
        self.driver.run_ready(self.budget)


@contextmanager
def running_driver() -> Iterator[Driver]:
    """A driver over the whole world of host functions; closed afterwards."""
    engine = WasmEngine()
    driver = Driver(Host(engine, TABLE), payer=payer_of)
    yield driver
    driver.close(Terminated("the tests are over"))
    driver.host.close()
    engine.close()


def with_programs(
    world: World, driver: Driver, folder: Path, programs: type[Programs] = Programs, **limits: float
) -> World:
    """A world that runs Wasm, whose processes have these limits. The Python runtime must have been prepared."""
    cache = DiskCache(folder / "programs", 1 << 30)
    world.runner.artifacts.cache = cache
    world.allow(**limits)
    world.host = world.runner.host = programs(
        driver,
        CodeCache(pie_home() / "code", driver.host.engine.settings),
        look_up=world._offload,
        compiling=world._offload,
        runtime=lambda: find_python_runtime("", pie_home()),
        artifact_path=cache.path,
        memory_bytes=256 << 20,
    )
    world.chunk = 1 << 20
    return world
