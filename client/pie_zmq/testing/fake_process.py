"""A process of a FakePie: its launch, its events, and who reads them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from pie_wire.hub import Peer
from pie_wire.messages.common import Event, ProcessInfo
from pie_wire.messages.gateway import Launch

from pie_zmq.testing.fake_run import FakeRun


@dataclass
class FakeProcess:
    launch: Launch
    created_at: float
    events: list[Event] = field(default_factory=list[Event])
    acked: int = 0
    reader: Peer | None = None
    owner: Peer | None = None
    run: FakeRun | None = None
    task: asyncio.Task[None] | None = None
    reason: str = ""

    @property
    def ended(self) -> bool:
        return bool(self.events) and self.events[-1].kind in ("return", "error")

    def info(self) -> ProcessInfo:
        last = self.events[-1] if self.events else None
        state = "running" if not self.ended else "returned" if last and last.kind == "return" else "failed"
        return ProcessInfo(
            self.launch.pid,
            self.launch.program,
            state,
            runner="fake",
            created_at=self.created_at,
            last_seq=len(self.events),
            acked_seq=self.acked,
            error=last.error if last else None,
        )
