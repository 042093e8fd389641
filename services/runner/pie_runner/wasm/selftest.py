"""At start, every C function that `ffi` uses is called once on a tiny component.

A wasmtime with another value layout or another calling convention must be found here, in a second, and not by a crash
among a thousand fibers.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.resources import files

from pie_wire.errors import InternalError, LimitExceeded, PieError, ProgramError, Terminated, Unsupported
from wasmtime.component import Component

from pie_runner.wasm import ffi
from pie_runner.wasm.driver import Driver
from pie_runner.wasm.engine import WasmEngine
from pie_runner.wasm.fiber import Fiber, Limits, Outcome
from pie_runner.wasm.host import Host
from pie_runner.wasm.hostcall import Case, HostTable, Ok, Pending
from pie_runner.wasm.program import Program
from pie_runner.wasm.types import read_imports

_PACKAGE = "pie:selftest"
_SAMPLE = (
    [1, 2, 3],
    b"bytes",
    "text \u2713",
    (True, -5, 2**40, 1.5, "c"),
    Case("text", "payload"),
    "second",
    frozenset({"b"}),
    [Ok("one"), Ok("two")],
)


class _Thing:
    """A resource that knows whether it was closed."""

    def __init__(self) -> None:
        self.closed = 0

    def close(self) -> None:
        self.closed += 1


class _Script:
    """The host of the test component."""

    def __init__(self) -> None:
        self.taken: object = None
        self.things: list[_Thing] = []
        self.pending: Pending | None = None

    def table(self) -> HostTable:
        return {
            ("host", "give"): self._give,
            ("host", "take"): self._take,
            ("host", "wait"): self._wait,
            ("host", "[constructor]thing"): self._thing,
            ("host", "[method]thing.touch"): self._touch,
        }

    def _give(self, _fiber: Fiber) -> object:
        return _SAMPLE

    def _take(self, _fiber: Fiber, *value: object) -> None:
        self.taken = value

    def _wait(self, fiber: Fiber) -> Pending:
        self.pending = Pending(fiber)
        return self.pending

    def _thing(self, _fiber: Fiber) -> _Thing:
        self.things.append(_Thing())
        return self.things[-1]

    def _touch(self, _fiber: Fiber, thing: object) -> int:
        return self.things.index(thing) if isinstance(thing, _Thing) else -1


def self_test() -> None:
    """Raise Unsupported for a wasmtime that is not the known one, InternalError when it does not behave as known."""
    if ffi.VERSION != ffi.KNOWN_VERSION:
        raise Unsupported(
            f"wasmtime {ffi.VERSION} is installed; fibers need exactly {ffi.KNOWN_VERSION}: "
            f"pip install wasmtime=={ffi.KNOWN_VERSION}"
        )
    engine = WasmEngine()
    script = _Script()
    host = Host(engine, script.table(), package=_PACKAGE)
    driver = Driver(host)
    try:
        raw = files("pie_runner.wasm").joinpath("selftest.wat").read_text()
        component = Component(engine.raw, raw)
        offered = {key: str(types) for key, types in read_imports(component, engine.raw).functions.items()}
        program = Program(engine, component, offered)
        _check(program, driver, script)
    finally:
        driver.close(Terminated("the self-test is over"))
        host.close()
        engine.close()


def _check(program: Program, driver: Driver, script: _Script) -> None:
    outcomes: list[Outcome] = []

    def run(text: str, until: Callable[[], bool], limits: Limits | None = None) -> Fiber:
        fiber = driver.spawn(program, text, data=None, on_exit=lambda _, o: outcomes.append(o), limits=limits)
        for _ in range(200):
            driver.run_ready()
            if until():
                return fiber
        raise InternalError(f"wasmtime self-test: {text!r} did not get where it should")

    def ended() -> bool:
        return bool(outcomes)

    run("echo", ended)
    _expect(outcomes.pop(), "echo")
    _expect(script.taken, _SAMPLE)
    run("fail", ended)
    _expect(type(outcomes.pop()), ProgramError)
    run("wait", lambda: script.pending is not None)
    _expect(driver.has_work, False)
    if script.pending is not None:
        script.pending.resolve(7)
    driver.run_ready()
    _expect(outcomes.pop(), "wait")
    run("thing", ended)
    _expect(outcomes.pop(), "thing")
    _expect([thing.closed for thing in script.things], [1, 1])
    script.pending = None
    for text in ("wait", "loop"):
        fiber = run(text, lambda text=text: script.pending is not None if text == "wait" else driver.has_work)
        driver.kill(fiber, Terminated("asked to"))
        _expect(type(outcomes.pop()), Terminated)
    run("recurse", ended)
    _expect(type(outcomes.pop()), LimitExceeded)
    run("grow", ended, Limits(memory_bytes=1 << 20))
    _expect(isinstance(outcomes.pop(), PieError), True)


def _expect(found: object, wanted: object) -> None:
    if found != wanted:
        raise InternalError(f"wasmtime self-test: {found!r} instead of {wanted!r}")
