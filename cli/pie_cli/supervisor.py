"""The supervisor of a stack: starts its services, starts dead ones again, stops all in order.

    start -> await readiness (members of kvstore, built-in programs) -> keep up -> stop: gateway and runners,
    then engines, then kvstore

It must run in the main thread of a process of its own: services die with it, however it ends.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Protocol

import msgspec
from pie_wire.errors import PieError, Unavailable
from pie_wire.messages.common import MemberInfo

from pie_cli.child import Child
from pie_cli.paths import StackPaths
from pie_cli.plan import StackPlan
from pie_cli.probe import Probe
from pie_cli.state import ServiceStatus, StackState, own_stack, write_state

TURN = 0.05
START_TIMEOUT = 300.0
STOP_TIMEOUT = 5.0
"""Seconds that each stage of a stop may take before its processes are killed."""
STAGES = (("gateway", "runner"), ("engine",), ("kvstore",))

BuiltinInstaller = Callable[[str], list[str]]
"""Installs the built-in programs through the gateway at an endpoint; returns their names. Raises PieError."""


class Listener(Protocol):
    """Told what happens, for showing it."""

    def changed(self, service: ServiceStatus, member: MemberInfo | None) -> None: ...
    def installed(self, programs: Sequence[str]) -> None: ...
    def ready(self, state: StackState) -> None: ...
    def stopping(self) -> None: ...
    def turn(self, waiting_for: Sequence[str]) -> None: ...


class Supervisor:
    """Runs one stack until it is told to stop."""

    def __init__(self, plan: StackPlan, paths: StackPaths, listener: Listener, install: BuiltinInstaller) -> None:
        self._paths = paths
        self._listener = listener
        self._install = install
        self._children = [Child(service, paths) for service in plan.services]
        self._programs: list[str] | PieError | None = None
        self._stops = 0
        self._revive = False
        self._state = StackState(
            supervisor=os.getpid(),
            phase="starting",
            started_at=time.time(),
            model=plan.model,
            endpoint=paths.endpoint("gateway"),
            kvstore=paths.endpoint("kvstore"),
        )

    def run(self) -> None:
        """From start to stop.

        Raises:
            Conflict: a supervisor is at work in this home. Unavailable: the stack did not come up; it is stopped.
        """
        with own_stack(self._paths):
            self._handle_signals()
            probe = Probe(self._state.kvstore)
            try:
                for child in self._children:
                    child.start()
                self._save()
                self._come_up(probe)
                self._keep_up(probe)
            except PieError as exc:
                self._save(error=exc.message)
                raise
            finally:
                probe.close()
                self._stop()
                self._paths.remove_sockets()
                self._save(phase="failed" if self._state.error else "stopped")

    def _come_up(self, probe: Probe) -> None:
        deadline = time.monotonic() + START_TIMEOUT
        installing = False
        while not self._stops:
            self._turn(probe, eager=True)
            ready = {child.plan.kind for child in self._children if child.state == "ready"}
            if not installing and {"kvstore", "gateway"} <= ready:
                installing = True
                threading.Thread(target=self._install_builtins, daemon=True).start()
            waiting = [child.plan.name for child in self._children if child.state != "ready"]
            failed = next((child for child in self._children if child.state == "failed"), None)
            if failed is not None:
                raise Unavailable(f"{failed.plan.name} did not start: {failed.error}")
            if isinstance(self._programs, PieError):
                raise Unavailable(f"the built-in programs could not be installed: {self._programs.message}")
            if self._programs is None:
                waiting.append("programs")
            if not waiting:
                self._save(phase="ready", http=_http(probe.members), programs=self._programs)
                self._listener.ready(self._state)
                return
            if time.monotonic() > deadline:
                raise Unavailable(f"not ready after {START_TIMEOUT:g} s: {', '.join(waiting)}; see `pie logs`")
            self._listener.turn(waiting)

    def _keep_up(self, probe: Probe) -> None:
        while not self._stops:
            self._turn(probe, eager=any(child.state != "ready" for child in self._children))
            http = _http(probe.members)
            if http and http != self._state.http:
                self._save(http=http)
            if self._revive:
                self._revive = False
                for child in self._children:
                    if child.revive():
                        self._tell(child, None)

    def _turn(self, probe: Probe, *, eager: bool) -> None:
        probe.poll(TURN, eager=eager)
        for child in self._children:
            if child.tend():
                self._tell(child, None)
            member = probe.find(child.plan.name, child.pid) if child.pid else None
            if member is not None and member.state == "up" and child.mark_ready():
                self._tell(child, member)

    def _tell(self, child: Child, member: MemberInfo | None) -> None:
        self._save()
        self._listener.changed(child.status(), member)

    def _install_builtins(self) -> None:
        try:
            programs = self._install(self._state.endpoint)
        except PieError as exc:
            self._programs = exc
        else:
            self._listener.installed(programs)
            self._programs = programs

    def _stop(self) -> None:
        self._listener.stopping()
        self._save(phase="stopping")
        for kinds in STAGES:
            stage = [child for child in self._children if child.plan.kind in kinds]
            for child in stage:
                child.ask_to_stop()
            deadline = time.monotonic() + STOP_TIMEOUT
            while self._stops < 2 and time.monotonic() < deadline and not all(child.has_ended() for child in stage):
                time.sleep(0.02)
            for child in stage:
                child.kill()

    def _save(self, **changes: object) -> None:
        services = [child.status() for child in self._children]
        self._state = msgspec.structs.replace(self._state, services=services, **changes)
        write_state(self._paths, self._state)

    def _handle_signals(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._on_stop)
        signal.signal(signal.SIGUSR1, self._on_revive)

    def _on_stop(self, number: int, frame: FrameType | None) -> None:
        self._stops += 1

    def _on_revive(self, number: int, frame: FrameType | None) -> None:
        self._revive = True


def _http(members: Sequence[MemberInfo]) -> str:
    gateway = next((m for m in members if m.kind == "gateway"), None)
    return str(gateway.info.get("http", "")) if gateway is not None else ""
