"""Where Pie keeps what outlives a command: models, compiled programs, state of running stacks."""

from __future__ import annotations

from pie_wire.config import pie_home

__all__ = ["pie_home"]
