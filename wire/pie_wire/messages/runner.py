"""Messages that a runner receives: from the gateway, and the engine's step results."""

from __future__ import annotations

from typing import ClassVar, Literal

import msgspec

from pie_wire.capabilities import Capabilities
from pie_wire.errors import ErrorInfo
from pie_wire.messages.base import Done, Push, Request
from pie_wire.messages.common import Account, ProgramRef


class Start(Request[Done], frozen=True, omit_defaults=True):
    """Run a program as process `pid`; answered when the runner has taken it on. Its end is an event."""

    verb: ClassVar[str] = "run.start"
    pid: str
    program: ProgramRef
    input: str
    filename: str = "inferlet.py"
    account: Account = Account()
    on_full: Literal["block", "drop"] = "block"
    capabilities: Capabilities = Capabilities()
    """What it may do outside of the sandbox."""
    mcp: list[str] = []
    """Tool servers that its client runs: asked by `gw.ask-tool`."""
    near: str = ""
    """Name of the engine that is to be its home, if that serves the model it uses."""


class Deliver(Request[Done], frozen=True, omit_defaults=True):
    """A client's message for `session.receive`; buffer 0 with `binary`."""

    verb: ClassVar[str] = "run.deliver"
    pid: str
    text: str = ""
    binary: bool = False


class DeliverFile(Request[Done], frozen=True, omit_defaults=True):
    """A part of a client's file for `session.receive-file`: buffer 0 at `offset` of `size`."""

    verb: ClassVar[str] = "run.deliver-file"
    pid: str
    file: str
    name: str
    size: int
    offset: int = 0


class Kill(Push, frozen=True, omit_defaults=True):
    """End a process; its terminal event follows."""

    verb: ClassVar[str] = "run.kill"
    pid: str
    reason: str


class ChildEnded(Push, frozen=True, omit_defaults=True):
    """A child of process `parent` has ended: with `result` (JSON text), or with `error`."""

    verb: ClassVar[str] = "run.child-ended"
    parent: str
    pid: str
    result: str = ""
    error: ErrorInfo | None = None


class QueuedMessage(Push, frozen=True, omit_defaults=True):
    """The message of a pull (`kv.pull-message`). The process has it until it is settled, or the runner dies."""

    verb: ClassVar[str] = "run.message"
    pid: str
    number: int
    message: int
    text: str
    redeliveries: int = 0
    """How many had it before."""


class Broadcasted(Push, frozen=True, omit_defaults=True):
    """A broadcast for the subscribers on this runner."""

    verb: ClassVar[str] = "run.broadcast"
    tenant: str
    user: str
    topic: str
    text: str
    lost: int = 0
    """Broadcasts of this topic that were dropped before this one, because the runner was slow to take them."""


class Credit(Push, frozen=True, omit_defaults=True):
    """Progress of event logs: written durably up to, and consumed by a client up to, these numbers (columns)."""

    verb: ClassVar[str] = "run.credit"
    pids: list[str]
    durable: list[int]
    consumed: list[int]


class OpFailure(msgspec.Struct, frozen=True, array_like=True):
    """Operation number `op` failed; its context now has `generation`."""

    op: int
    context: int
    generation: int
    error: ErrorInfo


class RunEnd(msgspec.Struct, frozen=True, array_like=True):
    """A run has ended after the tokens sent so far: no more will come.

    `wasted`: tokens computed and not consumed; known for cancelled runs."""

    run: int
    reason: Literal["stop", "length", "cancelled", "error"]
    error: ErrorInfo | None = None
    cached_tokens: int = 0
    """Prompt tokens whose KV was found instead of computed."""
    wasted: int = 0
    drafted: int = 0
    """Guesses that were tried, and how many of them were right."""
    accepted: int = 0


class Slot(msgspec.Struct, frozen=True, array_like=True):
    """One output of a lockstep pass: a token, a top-k distribution, raw logits or a hidden state (f32, in buffer
    `buffer`), log-probabilities of the ids asked for, or an entropy in nats (`values`)."""

    kind: Literal["token", "top", "logits", "logprobs", "entropy", "hidden"]
    token: int = -1
    ids: list[int] = []
    probs: list[float] = []
    buffer: int = -1
    values: list[float] = []


class RunProbes(msgspec.Struct, frozen=True, array_like=True):
    """Answers of a run's probes for its tokens of this message: for each token one slot per probe."""

    run: int
    slots: list[Slot]


class ForwardDone(msgspec.Struct, frozen=True, array_like=True):
    """The answer to forward operation `op`: one slot per requested output, in request order."""

    op: int
    slots: list[Slot]
    cached_tokens: int = 0
    """Tokens whose KV was found instead of computed."""


class Exported(msgspec.Struct, frozen=True, array_like=True):
    """Buffer `buffer` of this message is part `part` (from 0) of the `parts` of an export, the header first."""

    op: int
    part: int
    parts: int
    buffer: int


class Receipt(msgspec.Struct, frozen=True, array_like=True):
    """Pages of a context left the pool (`evicted`), or the context is back as it was (`restored`).

    `reason`: the pool or the account's cap was full, or the program asked. `how`: its KV is `swapped` to host memory or
    is to be computed again. `tokens` and `pages`: those that left; of a return, tokens computed again and pages copied
    back. `seconds`: how long it was away."""

    context: int
    kind: Literal["evicted", "restored"]
    reason: Literal["pressure", "cap", "suspend"]
    how: Literal["swapped", "recomputed"]
    tokens: int
    pages: int
    seconds: float = 0.0


class Pressure(msgspec.Struct, frozen=True, array_like=True):
    """How short pages are. `demand`: pages owned and waited for, as a part of the pool, so above 1 when requests wait.
    `price`: the bid that no longer sufficed to keep pages; 0 while level is low."""

    level: Literal["low", "medium", "high"]
    demand: float
    price: float = 0.0


class Step(Push, frozen=True, omit_defaults=True):
    """All that one engine step has for one runner.

    `acked`: operations up to this number have been applied (or failed, see `failed`). Tokens are columns:
    `counts[i]` items of `tokens` belong to run `runs[i]`. `flushed`: numbers of flush operations now done.
    """

    verb: ClassVar[str] = "run.step"
    acked: int
    failed: list[OpFailure] = []
    flushed: list[int] = []
    cached: list[int] = []
    """Per number in `flushed`, tokens whose KV was found instead of computed."""
    runs: list[int] = []
    counts: list[int] = []
    tokens: list[int] = []
    ends: list[RunEnd] = []
    outputs: list[ForwardDone] = []
    exports: list[Exported] = []
    probes: list[RunProbes] = []
    receipts: list[Receipt] = []
    pressure: Pressure | None = None
    """Sent when its level has changed; low at first."""
