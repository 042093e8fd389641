"""A runner on a test stand: real host functions, processes and fibers; an engine that answers everything at once."""

from __future__ import annotations

import itertools
import os
import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

from pie_wire.errors import InternalError, PeerLost, PieError, Terminated
from pie_wire.hub import Hub, Scope
from pie_wire.messages.common import ProgramRef
from pie_wire.messages.link import Identity
from pie_wire.messages.runner import Start
from pie_wire.tenants import TenantLimits, TenantTable

from pie_runner.bench.programs import GUESTS, Guest, Maker, Sampling, Work
from pie_runner.children import Children
from pie_runner.engines import Engines
from pie_runner.facilities import Facilities
from pie_runner.grammars.compiler import GrammarCompiler
from pie_runner.host import TABLE
from pie_runner.messaging.post import Post
from pie_runner.outside.aside import Aside
from pie_runner.outside.http_client import HttpSettings, HttpShared
from pie_runner.outside.process_outside import OutsideFacilities
from pie_runner.process import Process
from pie_runner.process_limits import ProcessLimits
from pie_runner.tenants import Tenants
from pie_runner.timers import Timers
from pie_runner.turns import Turns
from pie_runner.waitables import Waitable
from pie_runner.wasm.driver import Driver
from pie_runner.wasm.engine import WasmEngine
from pie_runner.wasm.fiber import Fiber, Outcome
from pie_runner.wasm.host import Host

_TURNS = 1_000_000


class Echo(Waitable):
    """What a guest waits for again and again: ready only while it is answered."""

    def __init__(self, process: Process, number: int) -> None:
        super().__init__(process.waitables)
        self.number = number
        self._ready = False

    @property
    def ready(self) -> bool:
        return self._ready

    def answer(self) -> None:
        """The engine answered; the next wait parks again."""
        self._ready = True
        self.notify()
        self._ready = False


class Life:
    """One program of the benchmark, with the waitable (number 1) that it waits for."""

    def __init__(self, stand: Stand, guest: Guest, number: int, work: Work | Sampling) -> None:
        ref = ProgramRef(guest.name, "", "component", "0" * 64)
        start = Start(f"bench-{number}", ref, "null")
        self.process = Process(start, Scope(), stand.facilities, stand, os.urandom(16))
        self.echo = Echo(self.process, number)
        self.ended: Outcome | None = None
        self.process.running()
        text = guest.text(work)
        self.fiber = stand.driver.spawn(guest.program, text, data=self.process, on_exit=self._exit)

    @property
    def is_parked(self) -> bool:
        """It waits for its echo."""
        return self.fiber.parked is not None

    def _exit(self, _fiber: Fiber, outcome: Outcome) -> None:
        self.ended = outcome
        self.process.exited(outcome)


class Stand:
    """Drives programs as the service does. Its processes' events go nowhere."""

    def __init__(self, folder: Path) -> None:
        """`folder` keeps the components of guests that have to be built."""
        self._folder = folder
        hub = Hub(Identity("runner", "bench", 1), time.monotonic)
        self.hub = hub
        self.wasm = WasmEngine()
        self.driver = Driver(Host(self.wasm, TABLE))
        timers = Timers()
        self.facilities = Facilities(
            name="bench",
            hub=hub,
            engines=Engines(hub, _Ports(hub), _at_once),
            children=Children(hub, lambda: None, lambda: ""),
            post=Post(hub, timers),
            timers=timers,
            threads=Turns(_no_offload, 1),
            grammars=GrammarCompiler(_no_offload),
            wall=time.time,
            window=32,
            model_wait=0.0,
            tenants=Tenants(TenantTable(TenantLimits()), ProcessLimits()),
            outside=OutsideFacilities(Aside(_nothing), HttpShared(HttpSettings())),
        )
        self._numbers = itertools.count(1)
        self._guests: dict[Maker, Guest] = {}

    def guest(self, name: str) -> Guest:
        """A plain guest by its name, compiled once. Raises Unsupported without its toolchain."""
        return self.made(GUESTS[name])

    def made(self, maker: Maker) -> Guest:
        """The guest of this maker, compiled once."""
        if maker not in self._guests:
            self._guests[maker] = maker(self.wasm, self._folder)
        return self._guests[maker]

    def launch(self, guest: Guest, work: Work | Sampling) -> Life:
        """A program that does this; it runs at the next `drive`."""
        return Life(self, guest, next(self._numbers), work)

    def drive(self) -> None:
        """Run until every program is parked or has ended."""
        for _ in range(_TURNS):
            if not self.driver.run_ready():
                return
        raise InternalError("the programs of the benchmark do not come to rest")

    def kill(self, life: Life) -> None:
        """End a program."""
        self.driver.kill(life.fiber, Terminated("the benchmark has seen enough"))

    def close(self) -> None:
        """Everything ends."""
        self.driver.close(Terminated("the benchmark is over"))
        self.driver.host.close()
        self._guests.clear()
        self.wasm.close()

    # -- the processes' watcher

    def written(self, process: Process) -> None:
        """Events are not looked at."""

    def ended(self, process: Process) -> None:
        """Nor is an end."""


class _Ports:
    """Opens ports that no socket is behind: a LocalEngine moves what passes through them."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    def dial(self, port: str, endpoint: str) -> None:
        self._hub.dial(port)

    def hang_up(self, port: str) -> None:
        self._hub.hang_up(port, PeerLost("the engine is no longer listed"))


def _at_once(work: Callable[[], object], then: Callable[[object, Exception | None], None]) -> None:
    try:
        result = work()
    except PieError as exc:
        then(None, exc)
    else:
        then(result, None)


def _no_offload(work: Callable[[], object], then: Callable[[object, Exception | None], None]) -> None:
    raise InternalError("the stand has no worker threads")


@contextmanager
def stand(folder: Path | None = None) -> Generator[Stand]:
    """A stand that is cleared away afterwards. Guests that have to be built are kept in `folder`, and found there."""
    with tempfile.TemporaryDirectory(prefix="pie-bench-") as scratch:
        made = Stand(folder or Path(scratch))
        try:
            yield made
        finally:
            made.close()


def must_end_well(life: Life) -> None:
    """Raise its error, or InternalError when it has not ended."""
    if isinstance(life.ended, PieError):
        raise life.ended
    if life.ended is None:
        raise InternalError("a program of the benchmark did not end")


def _nothing() -> None:
    pass
