"""Where Pie keeps what outlives a command: models, compiled programs, state of running stacks."""

from __future__ import annotations

import os
from pathlib import Path


def pie_home() -> Path:
    """`$PIE_HOME`, else `$XDG_DATA_HOME/pie`, else `~/.local/share/pie`. The folder need not exist yet."""
    if chosen := os.environ.get("PIE_HOME"):
        return Path(chosen).expanduser().absolute()
    if data := os.environ.get("XDG_DATA_HOME"):
        return Path(data).expanduser().absolute() / "pie"
    return Path.home() / ".local" / "share" / "pie"
