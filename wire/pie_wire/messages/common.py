"""Records that more than one service uses."""

from __future__ import annotations

from typing import Literal

import msgspec

from pie_wire.errors import ErrorInfo
from pie_wire.texts import byte_size

ProgramKind = Literal["python", "component"]
EventKind = Literal["started", "message", "binary", "file", "stdout", "stderr", "progress", "gap", "return", "error"]
TERMINAL_KINDS: frozenset[str] = frozenset({"return", "error"})

MAX_INPUT_BYTES = 4 << 20
MAX_EVENT_BYTES = 1 << 20
MAX_QUEUED_BYTES = 256 << 10
MAX_ARTIFACT_BYTES = 256 << 20
CHUNK_BYTES = 256 << 10
UNACKED_EVENTS = 65_536
UNACKED_BYTES = 8 << 20


class Event(msgspec.Struct, frozen=True, array_like=True):
    """One numbered event of a process. Numbers are dense from 1 over all kinds; the last is `return` or `error`.

    `text` carries message, stdout, stderr, progress and the JSON of `return`; `data` carries `binary`;
    `error` belongs to kind `error`; `gap` has in `text` the number of events dropped. `progress` says, before
    `started`, what takes the launch so long. A `file` is one event or several, each with a FilePart as JSON in `text`
    and the bytes of that part in `data`; it has arrived when its last byte has.
    """

    seq: int
    kind: EventKind
    text: str = ""
    data: bytes = b""
    error: ErrorInfo | None = None

    @property
    def size(self) -> int:
        """Bytes counted against the unacknowledged limit."""
        return 32 + byte_size(self.text) + len(self.data) + (byte_size(self.error.message) if self.error else 0)


class FilePart(msgspec.Struct, frozen=True):
    """Which part of which file an event of kind `file` holds."""

    name: str
    size: int
    """Of the whole file."""
    offset: int


class ProgramRef(msgspec.Struct, frozen=True, omit_defaults=True):
    """A program resolved to bytes. Programs run from a file have an empty version."""

    name: str
    version: str
    kind: ProgramKind
    sha256: str


class Program(msgspec.Struct, frozen=True, omit_defaults=True):
    """A registry row."""

    ref: ProgramRef
    manifest: str = ""
    """TOML text of Pie.toml."""
    size: int = 0
    installed_at: float = 0.0


class Account(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the engine knows of an owner. Salt separates prefix caches; page_cap 0 means the pool's size."""

    salt: bytes = b""
    weight: float = 1.0
    page_cap: int = 0


class MemberInfo(msgspec.Struct, frozen=True, omit_defaults=True):
    """A running service as kvstore lists it."""

    kind: str
    name: str
    epoch: int
    endpoint: str = ""
    """Where others dial it; empty if it binds nothing."""
    pid: int = 0
    host: str = ""
    incarnation: str = ""
    info: dict[str, str | int | float] = {}
    """Fixed facts: backend, model, device, HTTP address."""
    stats: dict[str, str | int | float] = {}
    """Last reported load."""
    state: Literal["up", "stuck", "lost"] = "up"


class ProcessInfo(msgspec.Struct, frozen=True, omit_defaults=True):
    """A process as `ps` lists it. Times are Unix seconds."""

    pid: str
    program: str
    state: Literal["starting", "running", "returned", "failed"]
    tenant: str = "local"
    user: str = "local"
    runner: str = ""
    created_at: float = 0.0
    ended_at: float = 0.0
    last_seq: int = 0
    acked_seq: int = 0
    error: ErrorInfo | None = None
    parent: str = ""
    """The process that launched it, if one did."""
    detached: bool = False
    """It lives on when its parent ends."""


class PageRow(msgspec.Struct, frozen=True, omit_defaults=True):
    """Ownership of KV pages by one context. `shared` counts leading tokens in pages that others hold too."""

    context: int
    runner: str
    epoch: int
    """Epoch of the runner that owns the context."""
    process: str
    tenant: str = "local"
    parent: int = 0
    shared: int = 0
    tip: str = ""
    """Hex hash of the last full page."""
    tokens: int = 0
    pages: int = 0
    since: float = 0.0


class PoolStats(msgspec.Struct, frozen=True, omit_defaults=True):
    """free + cached + owned = total, in pages."""

    total: int = 0
    free: int = 0
    cached: int = 0
    owned: int = 0
    page_size: int = 16


class ModelFacts(msgspec.Struct, frozen=True, omit_defaults=True):
    """What programs and clients may know of a model."""

    name: str
    vocab: int
    max_context: int
    """Longest context in tokens."""
    page_size: int = 16
    eos: list[int] = []
    dtype: str = ""
    backend: str = ""
    device: str = "cpu"
