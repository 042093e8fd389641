"""The wasmtime engine of a runner process: its settings, and the clock that ends time slices."""

from __future__ import annotations

import hashlib
import threading
import time
from dataclasses import asdict, dataclass
from functools import cached_property

from wasmtime import Config, Engine

from pie_runner.wasm import ffi

SLICE_TICKS = 2


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """What compiled code depends on, besides the wasmtime version."""

    wasm_stack_bytes: int = 4 * 1024 * 1024
    """Stack a guest may use before its stack limit ends it. Bounded, because unwinding takes time; large enough for
    language runtimes to notice first (CPython raises RecursionError). Only touched pages cost memory."""
    host_stack_bytes: int = 1024 * 1024
    """What is left on a fiber for host functions, which are Python."""
    tick_seconds: float = 0.0025
    """A slice is two ticks: between 2.5 and 5 ms."""

    @property
    def digest(self) -> str:
        """Changes when compiled code of other settings must not be loaded."""
        text = repr(sorted(asdict(self).items())) + "components,epochs,async,no-concurrency,one-memory,no-heap"
        return hashlib.sha256(text.encode()).hexdigest()[:16]


class WasmEngine:
    """One wasmtime engine and its epoch ticker. The ticker thread sleeps while no fiber runs."""

    def __init__(self, settings: EngineSettings | None = None) -> None:
        self.settings = settings or EngineSettings()
        config = Config()
        config.wasm_component_model = True
        # Both bring a heap of their own beside a program's memory; exceptions are objects there.
        config.wasm_gc = False
        config.wasm_exceptions = False
        config.epoch_interruption = True
        config.max_wasm_stack = self.settings.wasm_stack_bytes
        ffi.configure(config, self.settings.wasm_stack_bytes + self.settings.host_stack_bytes)
        self.raw = Engine(config)
        self.address = ffi.address(self.raw.ptr())
        """For stores; valid as long as this is."""
        self._running = threading.Event()
        self._closed = False

    @cached_property
    def _ticker(self) -> threading.Thread:
        thread = threading.Thread(target=self._tick, name="wasm-epoch", daemon=True)
        thread.start()
        return thread

    def _tick(self) -> None:
        while not self._closed:
            self._running.wait()
            time.sleep(self.settings.tick_seconds)
            ffi.increment_epoch(self.raw)

    def start_clock(self) -> None:
        """Guests are about to run."""
        self._running.set()
        _ = self._ticker

    def stop_clock(self) -> None:
        """No guest runs."""
        self._running.clear()

    def close(self) -> None:
        """End the ticker. Programs and fibers of this engine must be gone."""
        self._closed = True
        if "_ticker" in self.__dict__:
            self._running.set()
            self._ticker.join(timeout=1.0)
