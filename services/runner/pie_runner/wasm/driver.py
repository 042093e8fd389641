"""Runs the fibers that are ready, on one thread, without a task of the event loop for each."""

from __future__ import annotations

import time
from bisect import insort
from collections import deque
from collections.abc import Callable

import structlog
from pie_wire.errors import InternalError, LimitExceeded, PieError, to_error

from pie_runner.process_limits import passed
from pie_runner.wasm.fiber import BACKGROUND, PARKED, READY, RESTING, RUNNING, Fiber, Limits, Outcome
from pie_runner.wasm.host import Host
from pie_runner.wasm.mappings import Mappings
from pie_runner.wasm.program import Program
from pie_runner.wasm.rests import FELT_SECONDS, LONG_SECONDS, Payer, Rests

log = structlog.get_logger()

_LONG_SLICE = 0.0005
"""Seconds from which a slice is charged by its processor time rather than by the clock."""
BUSY_SECONDS = 0.002
"""Who ran longer than that at a time waits in the background, also when it is woken."""
ALONE_SECONDS = 1.0
"""Nobody rests if no other fiber has run for so long."""


class Driver:
    """Two queues: `ready` (just woken or just spawned) goes first; `background` holds those that used up a slice. Every
    `run_ready` gives at least one background fiber a slice, so neither starves the other.

    Fibers whose slices were too long again and again rest in between (`Rests`).
    """

    def __init__(
        self,
        host: Host,
        on_ready: Callable[[], None] | None = None,
        mappings: Mappings | None = None,
        payer: Callable[[object], Payer] = lambda _: ("", ""),
    ) -> None:
        """`on_ready` is called when a fiber becomes ready while none was: to schedule `run_ready`. `mappings` may deny
        a fiber its instance. `payer` says who pays for slices that are too long, by the `data` that a fiber was spawned
        with."""
        self.host = host
        self.mappings = mappings
        self._on_ready = on_ready
        self._payer = payer
        self._ready: deque[Fiber] = deque()
        self._background: deque[Fiber] = deque()
        self._resting: list[Fiber] = []
        """In the order in which they may go on."""
        self._rests = Rests()
        self._others_ran = 0.0
        """When a fiber ran last that need not rest."""
        self._moment = 0.0
        """When the last slice ended."""
        self._accounted = 0.0
        """Processor time of this thread up to which fibers have been charged."""
        self.fibers: set[Fiber] = set()
        """All that are not finished."""

    def spawn(
        self,
        program: Program,
        text: str,
        *,
        data: object,
        on_exit: Callable[[Fiber, Outcome], None],
        limits: Limits | None = None,
        on_output: Callable[[Fiber, str, bytes], None] | None = None,
    ) -> Fiber:
        """Queue a new instance that will run `run(text)`. `on_exit` is called once, with its outcome.

        `on_output` gets what the guest writes to WASI `stdout` or `stderr` (guests that print through the host's `log`
        interface write only fatal errors of their language runtime here).
        """
        fiber = Fiber(self, program, text, data, on_exit, limits or Limits(), on_output)
        self.fibers.add(fiber)
        fiber.rests_until = self._start(fiber)
        self.make_ready(fiber)
        return fiber

    def pays(self, data: object) -> bool:
        """Whether what is spawned with this `data` would be paid for by a tenant that pays for slices too long."""
        return self._rests.pays(self._payer(data)[0], time.perf_counter())

    @property
    def has_ready(self) -> bool:
        """Whether fibers that were woken or spawned wait for their turn, besides those that compute."""
        return bool(self._ready)

    @property
    def has_work(self) -> bool:
        """Whether `run_ready` would run something."""
        return bool(self._ready or self._background or (self._resting and self._is_rested(self._resting[0])))

    def make_ready(self, fiber: Fiber) -> None:
        """Let it run in its turn. For fibers, when the call that they are parked in is answered."""
        idle = not self.has_work
        self._queue(fiber)
        if idle and self._on_ready is not None:
            self._on_ready()

    def _queue(self, fiber: Fiber) -> None:
        if fiber.rests_until and not self._is_rested(fiber):
            fiber.state = RESTING
            insort(self._resting, fiber, key=_rests_until)
        elif fiber.last_seconds > BUSY_SECONDS:
            fiber.state = BACKGROUND
            self._background.append(fiber)
        else:
            fiber.state = READY
            self._ready.append(fiber)

    def _is_rested(self, fiber: Fiber) -> bool:
        now = time.perf_counter()
        return fiber.rests_until <= now or self._is_alone(now)

    def _is_alone(self, now: float) -> bool:
        return self._others_ran + ALONE_SECONDS < now

    def kill(self, fiber: Fiber, reason: PieError) -> None:
        """End a fiber in whatever state it is; `reason` becomes its outcome."""
        if fiber.state is RUNNING:
            fiber.doomed = reason
        elif not fiber.finished:
            self._finish(fiber, reason)

    def run_ready(self, budget: float = 0.005, before_background: Callable[[], None] | None = None) -> bool:
        """Run fibers until nothing is ready or `budget` seconds have passed. Returns whether work is left.

        `before_background` sends what there is to send, before those that compute hold it up.
        """
        self._moment = time.perf_counter()
        if self._resting and self._is_rested(self._resting[0]):
            self._end_rest(self._resting.pop(0))
        self._accounted = time.thread_time()
        deadline = self._moment + budget
        self.host.engine.start_clock()
        try:
            while self._ready:
                self._run(self._ready.popleft())
                if self._moment >= deadline:
                    break
            if self._background and before_background is not None:
                before_background()
                self._charge_nobody()
            while self._background:
                self._run(self._background.popleft())
                if self._ready or self._moment >= deadline:
                    break
        finally:
            self.host.engine.stop_clock()
        return self.has_work

    def _start(self, fiber: Fiber) -> float:
        now = time.perf_counter()
        return self._rests.start(self._payer(fiber.data), now, alone=self._is_alone(now))

    def _end_rest(self, fiber: Fiber) -> None:
        if not fiber.cpu_seconds:  # not started yet: another may have come first, and made it wait again
            fiber.rests_until = self._start(fiber)
            if fiber.rests_until and not self._is_rested(fiber):
                insort(self._resting, fiber, key=_rests_until)
                return
            fiber.rests_until = 0.0
        fiber.state = BACKGROUND
        self._background.append(fiber)

    def _run(self, fiber: Fiber) -> None:
        if fiber.finished:
            return
        fiber.state = RUNNING
        self.host.current = fiber
        try:
            outcome = fiber.run_slice()
        except Exception as exc:
            log.exception("running a fiber failed")
            outcome = to_error(exc)
        finally:
            self.host.current = None
            self._charge(fiber)
        if fiber.fault is not None and isinstance(outcome, InternalError):
            log.error("a host function failed", exc_info=fiber.fault)
        if outcome is None:
            outcome = fiber.doomed or _overdue(fiber)
        if outcome is not None:
            self._finish(fiber, outcome)
            self._charge_nobody()
        elif fiber.parked is None:
            fiber.last_seconds = max(fiber.last_seconds, 2 * BUSY_SECONDS)
            self._queue(fiber)
        elif fiber.parked.done:
            self._queue(fiber)
        else:
            fiber.state = PARKED

    def _charge(self, fiber: Fiber) -> None:
        """Let it pay for its slice, which has the driver's own share in it. A short slice was hardly interrupted: it
        pays by the clock, since to ask for processor time is a system call. What is over or under, long ones settle."""
        now = time.perf_counter()
        took = now - self._moment
        self._moment = now
        if took >= _LONG_SLICE:
            accounted, self._accounted = self._accounted, time.thread_time()
            took = max(0.0, self._accounted - accounted)
        else:
            self._accounted += took
        fiber.cpu_seconds += took
        fiber.last_seconds = took
        if took > LONG_SECONDS:
            self._charge_long(fiber, took, now)
        if not fiber.rests_until:
            self._others_ran = now

    def _charge_nobody(self) -> None:
        """What was done since the last slice is not for who runs next to pay."""
        self._moment, self._accounted = time.perf_counter(), time.thread_time()

    def _charge_long(self, fiber: Fiber, seconds: float, now: float) -> None:
        payer, alone = self._payer(fiber.data), self._is_alone(now)
        until = self._rests.charge(payer, seconds, now, alone=alone)
        fiber.rests_until = max(fiber.rests_until, until)
        if until and seconds > FELT_SECONDS and not alone:
            tenant, program = payer
            took, rest = round(seconds * 1000), round(until - now, 1)
            log.info("a program held up others and rests", tenant=tenant, program=program, held_ms=took, seconds=rest)

    def _finish(self, fiber: Fiber, outcome: Outcome) -> None:
        """End it. To free hundreds of megabytes takes long too: its program pays for that."""
        began = time.thread_time()
        self._release(fiber, outcome)
        took = time.thread_time() - began
        if took > LONG_SECONDS:
            self._charge_long(fiber, took, time.perf_counter())

    def _release(self, fiber: Fiber, outcome: Outcome) -> None:
        self.fibers.discard(fiber)
        if fiber.state is RESTING:
            self._resting.remove(fiber)
        try:
            fiber.release()
            fiber.on_exit(fiber, outcome)
        except Exception as exc:  # a bug in one program's end must not be the end of all
            log.exception("ending a fiber failed")
            fiber.on_exit(fiber, to_error(exc))

    def close(self, reason: PieError) -> None:
        """Kill everything."""
        for fiber in list(self.fibers):
            self.kill(fiber, reason)
        self._ready.clear()
        self._background.clear()
        self._resting.clear()


def _rests_until(fiber: Fiber) -> float:
    return fiber.rests_until


def _overdue(fiber: Fiber) -> LimitExceeded | None:
    """Its end, if it has used more processor time than it may."""
    limit = fiber.limits.cpu_seconds
    if not limit or fiber.cpu_seconds <= limit:
        return None
    why = passed("cpu_seconds", limit, "seconds of processor time", fiber.limits.where("cpu_seconds"))
    return LimitExceeded(why)
