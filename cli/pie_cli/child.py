"""One supervised process: started, watched, started again when it dies, stopped."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable

from pie_cli.log_files import last_reason, rotate, tail
from pie_cli.paths import StackPaths
from pie_cli.plan import ServicePlan
from pie_cli.state import ServiceState, ServiceStatus

PAUSES = (0.1, 5.0)
"""Seconds before a dead service is started again: first, and at most (it doubles)."""
LOOP_DEATHS = 5
LOOP_SECONDS = 60.0
"""So many deaths within so long are a crash loop, which is reported and not continued."""
STEADY = 30.0


class Child:
    """A service's process and its history. Not thread-safe; start it from the supervisor's main thread, whose death
    is the death of every child."""

    def __init__(self, plan: ServicePlan, paths: StackPaths, clock: Callable[[], float] = time.monotonic) -> None:
        self.plan = plan
        self.state: ServiceState = "stopped"
        self.error = ""
        self.restarts = 0
        self._paths = paths
        self._clock = clock
        self._process: subprocess.Popen[bytes] | None = None
        self._been_ready = False
        self._ready_at = 0.0
        self._deaths: deque[float] = deque(maxlen=LOOP_DEATHS)
        self._pause = PAUSES[0]
        self._restart_at = 0.0

    @property
    def pid(self) -> int:
        """0 when no process is there."""
        return self._process.pid if self._process is not None and self._process.returncode is None else 0

    def status(self) -> ServiceStatus:
        return ServiceStatus(self.plan.name, self.plan.kind, self.state, self.pid, self.restarts, self.error)

    def start(self) -> None:
        """Start the process; its output goes to its log file."""
        log = self._paths.log(self.plan.name)
        rotate(log)
        environment = {
            **os.environ,
            **self.plan.environment,
            "PIE_HOME": str(self._paths.home),
            "PIE_PARENT": str(os.getpid()),
            "PYTHONUNBUFFERED": "1",
        }
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                self.plan.command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=environment,
                cwd=self._paths.home,
                process_group=0,  # Ctrl-C is the supervisor's to hand on, in its order
            )
        self.state, self.error = "starting", ""

    def mark_ready(self) -> bool:
        """The stack sees the service at work. True if that is news."""
        if self.state != "starting":
            return False
        self.state, self._been_ready, self._ready_at = "ready", True, self._clock()
        return True

    def tend(self) -> bool:
        """Notice a death, start again when it is time, keep the log small. True if the state changed."""
        if self.state in ("starting", "ready") and self._process is not None and self._process.poll() is not None:
            self._died(self._process.returncode)
            return True
        if self.state == "waiting" and self._clock() >= self._restart_at:
            self.restarts += 1
            self.start()
            return True
        rotate(self._paths.log(self.plan.name))
        return False

    def revive(self) -> bool:
        """Give a service in a crash loop another chance. True if it was in need of one."""
        if self.state not in ("failed", "waiting"):
            return False
        self._deaths.clear()
        self._pause = PAUSES[0]
        self.restarts += 1
        self.start()
        return True

    def ask_to_stop(self) -> None:
        """SIGTERM; `state` becomes `stopped` for good."""
        self.state = "stopped"
        if self._process is not None and self._process.poll() is None:
            # A stopped (SIGSTOP) process would never see the request.
            self._process.send_signal(signal.SIGTERM)
            self._process.send_signal(signal.SIGCONT)

    def has_ended(self) -> bool:
        return self._process is None or self._process.poll() is not None

    def kill(self) -> None:
        """SIGKILL to what is left of it and its helpers, and take the process away."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def _died(self, code: int) -> None:
        now = self._clock()
        if code < 0:
            self.error = f"killed by {signal.Signals(-code).name}"
        else:
            reason = last_reason(tail(self._paths.log(self.plan.name), 30))
            self.error = reason or f"ended with status {code}"
        if not self._been_ready:
            self.state = "failed"
            return
        if self._ready_at and now - self._ready_at > STEADY:
            self._pause = PAUSES[0]
        self._deaths.append(now)
        if len(self._deaths) == LOOP_DEATHS and now - self._deaths[0] <= LOOP_SECONDS:
            self.state = "failed"
            self.error = f"died {LOOP_DEATHS} times within {LOOP_SECONDS:g} s; last: {self.error}"
            return
        self.state, self._restart_at = "waiting", now + self._pause
        self._pause = min(self._pause * 2, PAUSES[1])
