"""The runner's shell: one thread, one loop, which owns the sockets, the fibers and the worker threads."""

from __future__ import annotations

import os
import time
from pathlib import Path

import structlog
from pie_wire import garbage
from pie_wire.config import pie_home
from pie_wire.errors import PeerLost, Terminated
from pie_wire.hub import Hub
from pie_wire.membership import KVSTORE
from pie_wire.process import Shutdown, identity
from pie_wire.tenants import TenantLimits, read_tenants
from pie_wire.transport import TICK, Transport

from pie_runner.config import RunnerConfig
from pie_runner.core import RunnerCore
from pie_runner.disk_cache import DiskCache
from pie_runner.grammars.compiler import GrammarCompiler
from pie_runner.host import TABLE
from pie_runner.outside.aside import Aside
from pie_runner.outside.file_rooms import FileRooms
from pie_runner.outside.http_client import HttpSettings, HttpShared
from pie_runner.outside.mcp_config import read_servers
from pie_runner.outside.mcp_servers import McpServers
from pie_runner.outside.process_outside import OutsideFacilities
from pie_runner.process import payer_of
from pie_runner.uplink import PORT as GATEWAY
from pie_runner.wasm import ffi
from pie_runner.wasm.cache import CodeCache
from pie_runner.wasm.driver import Driver
from pie_runner.wasm.engine import WasmEngine
from pie_runner.wasm.host import Host
from pie_runner.wasm.mappings import mappings_of_this_process
from pie_runner.wasm.selftest import self_test
from pie_runner.wasm_programs import WasmPrograms
from pie_runner.workers import Workers

STOP_SECONDS = 2.0
"""How long the last events may take to be stored when the runner stops."""

DISK_THREADS = 4
"""Half of them for a tenant that is alone."""

log = structlog.get_logger("pie.runner")


class RunnerService:
    """Made ready by the constructor, which raises PieError when this machine cannot run programs."""

    def __init__(self, config: RunnerConfig, shutdown: Shutdown) -> None:
        self_test()
        self._shutdown = shutdown
        self._budget = config.slice_budget
        self._clock = time.monotonic
        home = pie_home()
        self._hub = Hub(identity("runner", config.name), self._clock)
        self._transport = Transport(self._hub)
        self._workers = Workers(1, self._transport.wake, "work")
        self._look_ups = Workers(1, self._transport.wake, "look-up")
        self._compilations = Workers(1, self._transport.wake, "compile")
        self._grammar_work = Workers(1, self._transport.wake, "grammars")
        self._grammars = GrammarCompiler(self._grammar_work)
        self._aside = Aside(self._transport.wake)
        self._disk = Workers(DISK_THREADS, self._transport.wake, "disk")
        self._files = self._file_rooms(config)
        self._wasm = WasmEngine()
        mappings = mappings_of_this_process(self._look_ups)
        self._driver = Driver(Host(self._wasm, TABLE), mappings=mappings, payer=payer_of)
        artifacts = DiskCache(home / "cache" / "programs", config.cache_bytes)
        self._programs = WasmPrograms(
            self._driver,
            CodeCache(home / "code", self._wasm.settings, config.code_bytes),
            look_up=self._look_ups,
            compiling=self._compilations,
            runtime=lambda: find_python_runtime(config.python_runtime, home),
            artifact_path=artifacts.path,
            memory_bytes=config.memory,
        )
        self.core = RunnerCore(
            self._hub,
            host=self._programs,
            cache=artifacts,
            dialer=self._transport,
            offload=self._workers,
            random_bytes=os.urandom,
            wall=time.time,
            outside=self._outside(config),
            capacity=config.capacity if mappings is None else mappings.capacity(config.capacity),
            check_room=None if mappings is None else mappings.check,
            dedicated=config.dedicated,
            window=config.window,
            model_wait=config.model_wait,
            limits=config.process_limits,
            tenants=read_tenants(
                config.tenants,
                TenantLimits(contexts=config.tenant_contexts, pages=config.tenant_pages, tokens=config.tenant_tokens),
            ),
            backend=f"wasmtime {ffi.VERSION}",
            grammars=self._grammars,
        )
        self._transport.dial(KVSTORE, config.kvstore_endpoint)
        self._transport.dial(GATEWAY, config.gateway_endpoint)
        self._programs.warm_up()

    def run(self) -> None:
        """Serve until asked to stop; a second signal ends the process at once."""
        garbage.settle()
        log.info("ready", name=self._hub.identity.name)
        while not self._shutdown.requested.is_set():
            self.turn()
            if self.core.is_superseded:
                log.error("another runner has this name: stopping", name=self._hub.identity.name)
                break
        self._stop()

    def turn(self) -> None:
        """messages -> handlers -> ready programs -> everything out."""
        self._transport.poll(0.0 if self._driver.has_work else self._wait())
        began = self._clock()
        self._workers.drain()
        self._look_ups.drain()
        self._compilations.drain()
        self._grammar_work.drain()
        self._aside.drain()
        self._disk.drain()
        self.core.tick()
        if self._driver.has_work:
            self._driver.run_ready(self._budget, self._send)
        self.core.flush(busy=self._driver.has_ready)
        self._hub.progress += 1
        self.core.observe_lag(self._clock() - began)

    def _send(self) -> None:
        """What programs have to say leaves before those run that are in nobody's way."""
        self.core.flush()
        self._transport.flush()

    def close(self) -> None:
        """Release everything."""
        self._driver.close(Terminated("the runner was shut down"))
        self._driver.host.close()
        self._transport.close(PeerLost(f"runner {self._hub.identity.name} is shutting down"))
        self._workers.close()
        self._look_ups.close()
        self._compilations.close()
        self._grammar_work.close()
        self._grammars.close()
        self._aside.close()
        self._disk.close()
        self._files.close()
        self._wasm.close()

    def _outside(self, config: RunnerConfig) -> OutsideFacilities:
        http = HttpSettings(all_requests=config.http_all_requests, ca_file=config.http_ca)
        servers = McpServers(read_servers(config.mcp), config.mcp_seconds)
        return OutsideFacilities(self._aside, HttpShared(http), self._files, servers)

    def _file_rooms(self, config: RunnerConfig) -> FileRooms:
        me = self._hub.identity
        return FileRooms(Path(config.files), f"{me.name}-{me.incarnation}", self._disk, DISK_THREADS)

    def _wait(self) -> float:
        due = self.core.next_due()
        return TICK if due is None else max(0.0, min(TICK, due - self._clock()))

    def _stop(self) -> None:
        log.info("stopping", processes=self.core.live)
        self.core.stop()
        deadline = self._clock() + STOP_SECONDS
        while not self.core.is_settled and self._clock() < deadline:
            self.turn()
        self.core.membership.leave()
        self.turn()


def find_python_runtime(configured: str, home: Path) -> Path | None:
    """The component that runs Python source: the configured one, else the newest in the Pie home."""
    if configured:
        path = Path(configured).expanduser()
        return path if path.exists() else None
    found = sorted((home / "runtime").glob("python-*.wasm"), key=lambda path: path.stat().st_mtime)
    return found[-1] if found else None
