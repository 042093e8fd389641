"""The shell of the engine: sockets on the main thread, the model on another.

    load the model -> [poll -> apply -> plan -> execute -> finish -> flush]* -> leave, close

While the device executes, the main thread goes on with links and leases; what arrives waits for the step border.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

import structlog
from pie_wire.errors import Cancelled, EngineLost, PieError, to_error
from pie_wire.hub import Hub
from pie_wire.membership import KVSTORE, Membership
from pie_wire.messages.common import ModelFacts
from pie_wire.process import Shutdown, identity
from pie_wire.transport import TICK, Transport

from pie_engine.adapters.loader import AdapterLoader
from pie_engine.adapters.remembered import RememberedAdapters
from pie_engine.config import EngineConfig, parse_bytes
from pie_engine.core import EngineCore
from pie_engine.limits import Limits
from pie_engine.models.base import Model
from pie_engine.models.loading import ready_device
from pie_engine.passes.batch import Batch
from pie_engine.passes.device import Device
from pie_engine.runs.grammar_compiler import GrammarCompiler
from pie_engine.worker import Worker

R = TypeVar("R")

PORT = "runners"
_MOMENT = 1e-4
"""Seconds between looks while a step waits: finer than a poll can."""
_FAREWELL = 2.0
"""Seconds for the pass under way; a model that is still loading gets none."""

_READING_FAREWELL = 0.5
"""Seconds for the adapter that is being read."""

log = structlog.get_logger("pie.engine")


def serve(config: EngineConfig, shutdown: Shutdown) -> None:
    """Run until asked to stop. Raises PieError if the engine cannot start."""
    config.check()
    hub = Hub(identity("engine", config.name), time.monotonic)
    transport = Transport(hub)
    worker = Worker(transport.wake)
    reader = Worker(transport.wake)
    farewell = _FAREWELL
    try:
        transport.dial(KVSTORE, config.kvstore_endpoint)
        Engine(config, hub, transport, worker, reader, shutdown).run()
    except Cancelled:
        log.info("stopped while loading the model")
        farewell = 0.0
    finally:
        transport.close(EngineLost(f"engine {config.name} is shutting down"))
        if not worker.stop(farewell) or not reader.stop(_READING_FAREWELL):
            # A native call cannot be interrupted, and tearing the interpreter down under it would crash.
            sys.stderr.flush()
            os._exit(0)


class Engine:
    """A core, its device and its sockets."""

    def __init__(
        self,
        config: EngineConfig,
        hub: Hub,
        transport: Transport,
        worker: Worker,
        reader: Worker,
        shutdown: Shutdown,
    ) -> None:
        """`worker` has the device; `reader` reads files meanwhile."""
        self._config = config
        self._hub = hub
        self._transport = transport
        self._worker = worker
        self._reader = reader
        self._shutdown = shutdown
        self._membership: Membership | None = None

    def run(self) -> None:
        """Load, serve, leave."""
        log.info("loading the model", model=self._config.model)
        model, device, pages = self._wait(self._worker.submit(ready_device, self._config))
        core = build_core(self._hub, self._config, model, pages, self._transport.wake)
        loader = AdapterLoader(
            core.adapters, device, lambda folder, most: self._reader.submit(device.read_adapter, folder, most)
        )
        core.adapters.remember(RememberedAdapters(self._config.adapters_file, model.info.name))
        while core.adapters.is_loading:
            self._check_wanted()
            loader.turn()
            self._poll(TICK)
        endpoint = self._transport.bind(PORT, self._config.endpoint)
        advertised = self._config.advertise or endpoint
        membership = Membership(self._hub, endpoint=advertised, info=_info(model, self._config))
        membership.report(core.stats)
        self._membership = membership
        log.info("ready", endpoint=endpoint, advertised=advertised)
        try:
            while not self._shutdown.requested.is_set():
                self._turn(core, device, loader)
                if membership.is_superseded:
                    log.error("another engine has this name: stopping", name=self._config.name)
                    break
        finally:
            membership.leave()
            self._transport.flush()
            if core.grammars is not None:
                core.grammars.close()

    def _turn(self, core: EngineCore, device: Device, loader: AdapterLoader) -> None:
        """One step, or a wait for something to do."""
        self._poll(0.0 if core.has_work else TICK)
        core.apply()
        while (left := core.patience()) > 0.0:
            time.sleep(min(left, _MOMENT))
            self._poll(0.0)
            core.apply()
        loader.turn()
        core.tick()
        batch = core.plan()
        if batch is not None:
            self._execute(core, device, batch)
        self._hub.progress += 1
        self._transport.flush()

    def _execute(self, core: EngineCore, device: Device, batch: Batch) -> None:
        started = time.perf_counter()
        future = self._worker.submit(device.execute, batch)
        while not future.done():
            self._poll(TICK)
        failure = future.exception()
        if failure is None:
            core.finish(future.result(), time.perf_counter() - started)
        else:
            log.error("a pass failed", rows=batch.rows, requests=batch.segments, exc_info=failure)
            core.fail(failure)

    def _wait(self, future: Future[R]) -> R:
        """The result of a long call, with links alive; Cancelled when asked to stop meanwhile."""
        while not future.done():
            self._check_wanted()
            self._poll(TICK)
        failure = future.exception()
        if failure is not None:
            raise failure if isinstance(failure, PieError) else to_error(failure) from failure
        return future.result()

    def _check_wanted(self) -> None:
        """Raise Cancelled when asked to stop."""
        if self._shutdown.requested.is_set():
            raise Cancelled("the engine was asked to stop")

    def _poll(self, timeout: float) -> None:
        if self._membership is not None:
            self._membership.tick()
        self._transport.poll(timeout)


def build_core(
    hub: Hub, config: EngineConfig, model: Model, pages: int, notify: Callable[[], None] = lambda: None
) -> EngineCore:
    """The core for a loaded model with a pool of so many pages. `notify` is called, in another thread, when the core
    has news of its own."""
    info = model.info
    limits = Limits(
        pages=pages,
        page_size=config.page_size,
        max_context=info.max_context,
        vocab=info.vocab_size,
        step_ms=config.step_ms,
        max_rows=config.max_rows,
        max_contexts=config.max_contexts,
        max_account_contexts=config.max_account_contexts,
        swap_pages=config.swap_pages(model.page_bytes(config.page_size), pages),
        draft_model=bool(config.draft_model),
        adapter_memory=parse_bytes(config.adapter_memory),
        page_bytes=model.read_pages((0,)).nbytes,
    )
    facts = ModelFacts(
        name=info.name,
        vocab=info.vocab_size,
        max_context=limits.context_limit(0),
        page_size=config.page_size,
        eos=list(info.eos_ids),
        dtype=info.dtype,
        backend=info.backend,
    )
    files = model.tokenizer_files()
    tokenizer = files.get("tokenizer.json")
    grammars = GrammarCompiler(tokenizer, info.vocab_size, info.eos_ids, notify) if tokenizer is not None else None
    return EngineCore(hub, facts, files, info.fingerprint, limits, time.time, grammars)


def _info(model: Model, config: EngineConfig) -> dict[str, str | int | float]:
    info = model.info
    return {
        "model": info.name,
        "architecture": info.architecture,
        "backend": info.backend,
        "dtype": info.dtype,
        "device": config.device,
        "vocab": info.vocab_size,
        "max_context": info.max_context,
        "page_size": config.page_size,
    }
