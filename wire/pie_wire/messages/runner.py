"""Messages that a runner receives: from the gateway, and the engine's step results."""

from __future__ import annotations

from typing import ClassVar, Literal

import msgspec

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


class Deliver(Request[Done], frozen=True, omit_defaults=True):
    """A client's message for `session.receive`; buffer 0 with `binary`."""

    verb: ClassVar[str] = "run.deliver"
    pid: str
    text: str = ""
    binary: bool = False


class Kill(Push, frozen=True, omit_defaults=True):
    """End a process; its terminal event follows."""

    verb: ClassVar[str] = "run.kill"
    pid: str
    reason: str


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
    probes: list[RunProbes] = []
