"""A process in the memory of a running gateway: its record, and who waits for what."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pie_gateway.attachment import Attachment
from pie_gateway.record import ProcessRecord
from pie_gateway.session import Session

if TYPE_CHECKING:
    from pie_gateway.runners import Runner


@dataclass(eq=False)
class Process:
    """`record` is the durable part; the rest is rebuilt after a restart."""

    record: ProcessRecord
    runner: Runner | None = None
    """The runner that has it now; None before it announces it after a restart, and after the end."""
    owner: Session | None = None
    attachment: Attachment | None = None
    on_end: list[Callable[[], None]] = field(default_factory=list[Callable[[], None]])
    """Called once when the terminal event is durable."""
    credited: tuple[int, int] = (0, 0)
    """(durable, consumed) as last told to the runner."""
    kill_reason: str = ""
    kill_deadline: float = 0.0

    @property
    def pid(self) -> str:
        return self.record.pid
