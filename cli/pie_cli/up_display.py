"""What `pie up` shows: a line per service as it comes, then where things are."""

from __future__ import annotations

import time
from collections.abc import Sequence

from pie_wire.messages.common import MemberInfo
from rich.console import Console
from rich.status import Status
from rich.text import Text

from pie_cli.state import ServiceStatus, StackState
from pie_cli.status import describe

MARKS = {"ready": ("✓", "green"), "failed": ("✗", "red"), "waiting": ("!", "yellow"), "starting": ("↻", "yellow")}


class UpDisplay:
    """A supervisor's listener that writes to stderr. `hint`: how to stop what is running."""

    def __init__(self, console: Console, *, hint: str) -> None:
        self._console = console
        self._hint = hint
        self._begun = time.monotonic()
        self._spinner: Status | None = None
        self._up = False

    def changed(self, service: ServiceStatus, member: MemberInfo | None) -> None:
        """One service has come up, died, or starts again."""
        if service.state == "stopped" or (service.state == "starting" and not service.restarts):
            return
        words = describe(member.info) if member is not None else service.error
        if service.state == "starting":
            words = "starting again"
        elif service.state == "waiting":
            words = f"{words}; starting again"
        self._line(service.state, service.name, words)

    def installed(self, programs: Sequence[str]) -> None:
        self._line("ready", "programs", ", ".join(programs) if programs else "none built in")

    def ready(self, state: StackState) -> None:
        self._stop_spinner()
        self._up = True
        say = self._console.print
        say(Text.assemble(("Pie is up", "bold green"), f" with {state.model}."))
        if state.http:
            say(Text.assemble("  HTTP      ", (f"{state.http}/v1", "cyan")))
        say(Text.assemble("  try       ", ('pie run text-completion -- --prompt "The capital of France is"', "cyan")))
        say(Text.assemble("  logs      ", ("pie logs -f", "cyan"), "    status  ", ("pie status", "cyan")))
        say(Text.assemble("  stop      ", (self._hint, "cyan")))

    def stopping(self) -> None:
        self._stop_spinner()
        if self._up:
            self._console.print("Stopping ...")

    def turn(self, waiting_for: Sequence[str]) -> None:
        """Called often while the stack is coming up."""
        if not self._console.is_terminal:
            return
        seconds = time.monotonic() - self._begun
        text = f"waiting for {', '.join(waiting_for)} ({seconds:.0f} s)"
        if self._spinner is None:
            self._spinner = self._console.status(text)
            self._spinner.start()
        self._spinner.update(text)

    def _line(self, state: str, name: str, words: str) -> None:
        mark, colour = MARKS.get(state, ("-", "dim"))
        seconds = f"{time.monotonic() - self._begun:5.1f} s" if not self._up else time.strftime("%H:%M:%S")
        line = Text.assemble("  ", (mark, colour), f" {name:<10} ", (seconds, "dim"), f"  {words}")
        self._console.print(line)

    def _stop_spinner(self) -> None:
        if self._spinner is not None:
            self._spinner.stop()
            self._spinner = None
