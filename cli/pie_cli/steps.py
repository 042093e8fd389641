"""Long steps made visible: a spinner and the time passed on a terminal, a plain line at start and end elsewhere."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn


class Steps:
    """Announces steps on standard error, so that a command's own output stays clean for scripts."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True, highlight=False, soft_wrap=True)

    @property
    def interactive(self) -> bool:
        return self.console.is_terminal

    def note(self, line: str) -> None:
        self.console.print(line, markup=False)

    @contextmanager
    def step(self, title: str) -> Generator[None]:
        """Show `title` while the block runs and how long it took once it succeeded."""
        start = time.monotonic()
        if self.interactive:
            spinner = Progress(
                SpinnerColumn(),
                TextColumn("{task.description}", markup=False),
                TimeElapsedColumn(),
                console=self.console,
                transient=True,
            )
            with spinner:
                spinner.add_task(title, total=None)
                yield
        else:
            self.note(f"{title} ...")
            yield
        self.note(f"{title}: done in {time.monotonic() - start:.1f} s")
