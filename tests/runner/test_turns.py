"""Work on threads: a tenant whose work hangs leaves threads to others, and who waits takes turns."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from pie_runner.turns import Then, Turns
from pie_runner.wasm_programs import WasmPrograms
from pie_wire.errors import BadProgram
from pie_wire.hub import Scope
from pie_wire.messages.common import ProgramRef


class Threads:
    """Work ends when the test says so."""

    def __init__(self, count: int) -> None:
        self.under_way: list[tuple[str, Then]] = []
        self.most = 0
        self.done: list[tuple[object, Exception | None]] = []
        self.turns = Turns(self._run, count)

    def _run(self, work: Callable[[], object], then: Then) -> None:
        self.under_way.append((str(work()), then))
        self.most = max(self.most, len(self.under_way))

    def ask(self, tenant: str, *names: str) -> None:
        for name in names:
            self.turns.of(tenant)(lambda name=name: name, lambda result, error: self.done.append((result, error)))

    def finish(self, error: Exception | None = None) -> str:
        name, then = self.under_way.pop(0)
        then(name, error)
        return name


def test_hung_work_of_one_tenant_leaves_threads_to_others():
    threads = Threads(4)
    threads.ask("a", "a1", "a2", "a3", "a4")
    threads.ask("b", "b1")

    assert [name for name, _ in threads.under_way] == ["a1", "a2", "b1"]


def test_those_who_wait_take_turns_and_all_are_answered():
    threads = Threads(1)
    threads.ask("a", "a1", "a2", "a3")
    threads.ask("b", "b1", "b2")
    order = [threads.finish() for _ in range(5)]

    assert order == ["a1", "a2", "b1", "a3", "b2"]
    assert [result for result, _ in threads.done] == order
    assert threads.most == 1


def test_what_fails_gives_its_thread_back():
    threads = Threads(1)
    threads.ask("a", "a1", "a2")
    error = OSError("broken")
    threads.finish(error)
    threads.finish()

    assert threads.done == [("a1", error), ("a2", None)]


def test_programs_to_be_compiled_take_turns_of_tenants(tmp_path: Path):
    """One tenant's many new programs do not hold up another's first."""
    compiling: list[tuple[Callable[[], object], Then]] = []
    host = WasmPrograms(
        cast(Any, None),
        cast(Any, None),
        look_up=lambda work, then: then(None, None),
        compiling=lambda work, then: compiling.append((work, then)),
        runtime=lambda: None,
        artifact_path=tmp_path.joinpath,
        memory_bytes=1 << 20,
    )
    said: list[str] = []
    for tenant, count in (("hog", 4), ("other", 1)):
        for number in range(count):
            name = f"{tenant}-{number}"
            process = SimpleNamespace(
                ref=ProgramRef(name, "1.0.0", "component", name),
                scope=Scope(tenant),
                input="{}",
                title=name,
                tell_progress=str,
            )
            host.start(cast(Any, process), bytes, lambda: None, lambda _, name=name: said.append(name))
    while compiling:
        assert len(compiling) == 1
        _, then = compiling.pop()
        then(None, BadProgram("not in this test"))

    assert said == ["hog-0", "hog-1", "other-0", "hog-2", "hog-3"]
