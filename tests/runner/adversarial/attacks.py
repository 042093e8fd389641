"""A runner's core with real Wasm and a simulated engine, and the program that attacks it."""

from __future__ import annotations

from typing import Any

from pie_wire.capabilities import Capabilities, Grants
from pie_wire.messages.common import ProgramKind
from pie_wire.messages.runner import Kill, Start
from runner_world import World
from wasm_world import Programs

RIGHTS = Capabilities(*[Grants(http=["127.0.0.1:*"], filesystem=["scratch"], mcp=["house"], children=True)] * 2)
"""All that there is to grant, asked for and granted."""


class Slices(Programs):
    """In slices of five milliseconds a turn, as the shell gives them."""

    budget = 0.005


class Attack:
    """Runs a hostile program beside whatever else runs."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._launched = 0

    def allow(self, cpu_seconds: float) -> None:
        """More processor time than others have."""
        self.world.allow(cpu_seconds=cpu_seconds)

    def launch(
        self,
        artifact: bytes,
        text: str = "null",
        kind: ProgramKind = "component",
        tenant: str = "local",
        **fields: Any,
    ) -> str:
        """Start it. Returns its pid."""
        self._launched += 1
        pid = f"attack-{self._launched}"
        self.world.send_start(Start(pid, self.world.store("attack", artifact, kind), text, **fields), tenant)
        return pid

    def outcome(self, artifact: bytes, text: str = "null", kind: ProgramKind = "component") -> str:
        """`return`, or the code of its error."""
        pid = self.launch(artifact, text, kind)
        self.world.run(lambda: self.world.ended(pid), limit=600.0)
        return self.end(pid)

    def said(self, pid: str, text: str) -> bool:
        """The program has sent that, or (`started`) made its first step."""
        return any(event.kind == text or event.text == text for event in self.world.log(pid))

    def end(self, pid: str) -> str:
        last = self.world.log(pid)[-1]
        return last.kind if last.error is None else last.error.code

    def kill(self, pid: str) -> None:
        self.world.push(Kill(pid, "enough"))
        self.world.run(lambda: self.world.ended(pid))
