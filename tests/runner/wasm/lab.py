"""Runs programs against the scripted host and collects what became of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fake_host import FakeHost, Instance
from pie_bakery import prepare_python_runtime
from pie_runner.wasm.cache import CodeCache
from pie_runner.wasm.driver import Driver
from pie_runner.wasm.engine import WasmEngine
from pie_runner.wasm.fiber import Fiber, Limits, Outcome
from pie_runner.wasm.host import Host
from pie_runner.wasm.program import Program
from pie_runner.wasm.world import offered_world
from pie_wire.config import pie_home
from pie_wire.errors import PieError, Terminated


def python_program(engine: WasmEngine) -> Program:
    """The generic component, prepared under the Pie home like everyone's."""
    path = prepare_python_runtime(pie_home())
    return Program.load(engine, path, CodeCache(path.parent), offered_world())


@dataclass
class Launch:
    """One program, running or done."""

    fiber: Fiber
    instance: Instance
    outcome: Outcome | None = None

    @property
    def value(self) -> Any:
        """What it returned; its error is raised."""
        if isinstance(self.outcome, PieError):
            raise self.outcome
        assert self.outcome is not None, "still running"
        return json.loads(self.outcome)

    @property
    def error(self) -> PieError:
        assert isinstance(self.outcome, PieError), self.outcome
        return self.outcome

    @property
    def stdout(self) -> str:
        return "".join(text for name, text in self.instance.out if name == "stdout")

    @property
    def stderr(self) -> str:
        return "".join(text for name, text in self.instance.out if name == "stderr")


class Lab:
    """A host, a driver, and programs given as source."""

    def __init__(self, engine: WasmEngine) -> None:
        self.fake = FakeHost()
        self.host = Host(engine, self.fake.table())
        self.driver = Driver(self.host)

    def launch(
        self, program: Program, text: str, limits: Limits | None = None, inbox: list[str] | None = None
    ) -> Launch:
        instance = Instance(inbox=list(inbox or []))

        def ended(_: Fiber, outcome: Outcome) -> None:
            made.outcome = outcome

        made = Launch(
            self.driver.spawn(program, text, data=instance, on_exit=ended, limits=limits),
            instance,
        )
        return made

    def start(self, program: Program, source: str, value: object = None, **options: Any) -> Launch:
        envelope = json.dumps({"source": source, "filename": "program.py", "input": value})
        launch = self.launch(program, envelope, **options)
        launch.instance.arguments = json.dumps(value)
        return launch

    def drive(self, until: Callable[[], bool] | None = None, timeout: float = 20.0) -> None:
        self.fake.drive(self.driver, timeout, until)

    def run(self, program: Program, source: str, value: object = None, **options: Any) -> Launch:
        launch = self.start(program, source, value, **options)
        self.drive(lambda: launch.outcome is not None)
        return launch

    def close(self) -> None:
        self.driver.close(Terminated("the test is over"))
        assert self.fake.open_resources == 0, "host resources leaked"
        self.host.close()
