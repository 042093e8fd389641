"""The same waits without a runner: what wasmtime, ctypes and one list each way take on this machine.

Bounds of `blocked-call-us` are absolute; machines are not. The rest of that figure is the runner's own. Slices have no
clock here, so that none ends early.
"""

from __future__ import annotations

import time

from wasmtime.component import Component, Linker

from pie_runner.bench.programs import source
from pie_runner.wasm import ffi
from pie_runner.wasm.engine import SLICE_TICKS, WasmEngine
from pie_runner.wasm.fiber import Limits, Tail
from pie_runner.wasm.host import PACKAGE, VERSION
from pie_runner.wasm.types import ListOf, Prim
from pie_runner.wasm.values import lifter, lowerer

_IDS = ListOf(Prim("u32"))


class _NoHandles:
    """These calls pass no resources."""

    def lift(self, handle: int) -> object:
        """Not called."""
        raise NotImplementedError

    def lower(self, value: object, resource: str) -> int:
        """Not called."""
        raise NotImplementedError

    def take(self, room: int) -> None:
        """One number costs nothing."""

    def take_text(self, size: int) -> None:
        """Not called."""


class _Now:
    """`monotonic-now`, which this measurement does not call."""

    def call(self, args: int, results: int, error: int) -> int:
        """Not called."""
        raise NotImplementedError


class _Wait:
    """`wait-any` of whichever program runs: reads the ids and parks."""

    def __init__(self) -> None:
        self.program: _Program
        self._lift = lifter(_IDS)

    def call(self, args: int, results: int, error: int) -> int:
        """Returns the flag of the program."""
        program = self.program
        program.ids = self._lift(args, _HANDLES)
        program.results = results
        return program.flag.lower()


_HANDLES = _NoHandles()


class _Program:
    """One instance that waits `waits` times."""

    def __init__(self, engine: WasmEngine, linker: Linker, component: Component, waits: int) -> None:
        self.flag = ffi.Flag()
        self.ids: list[int] = []
        self.results = 0
        self._lower = lowerer(_IDS)
        ignored = Tail(None)
        self._store = ffi.Store(engine.address, Limits().of_store, (ignored, ignored))
        self._context = self._store.context
        ffi.set_slice(self._context, SLICE_TICKS)
        ffi.yield_at_deadline(self._context, SLICE_TICKS)
        call, instance = ffi.instantiate(linker, self._context, component)
        call.poll()
        call.delete()
        self._args, self._result = ffi.Values(1), ffi.Values(1)
        lowerer(Prim("string"))(f"w{waits}", self._args.at, _HANDLES)
        run = ffi.exported_function(self._context, instance, "run")
        if run is None:
            raise TypeError("the guest of the benchmark does not export `run`")
        self._call = ffi.call(self._context, run, self._args, self._result)

    def step(self) -> bool:
        """Run to the next wait, or to the end (True)."""
        ffi.set_slice(self._context, SLICE_TICKS)
        return self._call.poll()

    def answer(self) -> None:
        """Every id is ready."""
        self._lower(self.ids, self.results, _HANDLES)
        self.flag.raise_()

    def close(self) -> None:
        """It is at its end, or wherever it was."""
        self._call.delete()
        self._args.delete()
        self._result.delete()
        self._store.close()


def waits(programs: int, number: int, rounds: int) -> list[float]:
    """Processor microseconds of a wait of the tiny guest, of `programs` that wait together, `number` times each."""
    engine, wait = WasmEngine(), _Wait()
    component = Component(engine.raw, source("tiny.wat"))
    linker = Linker(engine.raw)
    handles: list[int] = []
    for interface, name, entry in (("clocks", "monotonic-now", _Now()), ("futures", "wait-any", wait)):
        with linker.root() as root, root.add_instance(f"{PACKAGE}/{interface}@{VERSION}") as instance:
            handles.append(ffi.add_function(instance, name, entry))
    samples = [_round(engine, linker, component, wait, programs, number) for _ in range(rounds + 1)]
    linker.close()
    ffi.forget(handles)
    engine.close()
    return samples[1:]


def _round(engine: WasmEngine, linker: Linker, component: Component, wait: _Wait, programs: int, number: int) -> float:
    lives = [_Program(engine, linker, component, number + 1) for _ in range(programs)]

    def step() -> None:
        for life in lives:
            wait.program = life
            life.step()

    step()
    began = time.process_time()
    for _ in range(number):
        for life in lives:
            life.answer()
        step()
    took = time.process_time() - began
    for life in lives:
        life.close()
    return took / (programs * number) * 1e6
