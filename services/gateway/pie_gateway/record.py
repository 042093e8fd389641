"""What the gateway durably knows of one process."""

from __future__ import annotations

import hashlib
from typing import Literal

import msgspec
from pie_wire.capabilities import Capabilities, Grants
from pie_wire.errors import ErrorInfo
from pie_wire.messages.common import ProcessInfo
from pie_wire.messages.gateway import Launch


class ProcessRecord(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A row of the process table, written together with the events it describes. Times are Unix seconds."""

    pid: str
    program: str
    fingerprint: bytes
    """Of the launch: tells a repeated launch from another one with the same id."""
    tenant: str
    user: str
    on_disconnect: Literal["continue", "terminate"]
    created_at: float
    runner: str
    incarnation: str
    """Of the runner: its successor of the same name does not have this process."""
    state: Literal["starting", "running", "returned", "failed"] = "starting"
    ended_at: float = 0.0
    first_seq: int = 1
    """Oldest event kept; older ones were consumed and trimmed."""
    last_seq: int = 0
    consumed: int = 0
    kept_bytes: int = 0
    error: ErrorInfo | None = None
    closed_here: bool = False
    """The gateway wrote the terminal event, so the runner, should it come back, must end the process."""
    expired: bool = False
    """Only the id is kept, so that it is not executed again."""
    parent: str = ""
    """The process that launched it, if one did."""
    root: str = ""
    """The process at the head of that line."""
    depth: int = 0
    detached: bool = False
    """It lives on when its parent ends."""
    capabilities: Capabilities = Capabilities()
    """What it may do, which bounds what its children may."""
    allow: Grants = Grants()
    """What the user granted to it and to its descendants."""

    @property
    def ended(self) -> bool:
        return self.state in ("returned", "failed")

    def info(self) -> ProcessInfo:
        """As clients and the process index see it."""
        return ProcessInfo(
            pid=self.pid,
            program=self.program,
            state=self.state,
            tenant=self.tenant,
            user=self.user,
            runner=self.runner,
            created_at=self.created_at,
            ended_at=self.ended_at,
            last_seq=self.last_seq,
            acked_seq=self.consumed,
            error=self.error,
            parent=self.parent,
            detached=self.detached,
        )


def fingerprint(launch: Launch, tenant: str, user: str, parent: str = "") -> bytes:
    """Digest of what a launch executes and for whom (`parent`: for which
    program). How its events are received and where it runs are not part of it."""
    what = (
        launch.program,
        launch.input,
        launch.kind,
        launch.filename,
        launch.on_full,
        launch.manifest,
        launch.allow,
        launch.mcp,
        tenant,
        user,
        parent,
    )
    return hashlib.sha256(msgspec.msgpack.encode(what)).digest()[:16]
