"""Runs: decoding at the engine's own speed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from pie_wire.errors import BadRequest

from pie_runner.detokenizer import Detokenizer
from pie_runner.host import checks
from pie_runner.host.futures import waitable_id
from pie_runner.host.methods import method
from pie_runner.process import process_of
from pie_runner.runs import Run, RunSpec, StepResult
from pie_runner.wasm.hostcall import HostFunction, Ok

if TYPE_CHECKING:
    from pie_runner.contexts import Context
    from pie_runner.wasm.fiber import Fiber

MAX_WINDOW = 1024


class SpecRecord(Protocol):
    """The WIT's `spec`."""

    @property
    def sampler(self) -> checks.SamplerRecord: ...
    @property
    def seed(self) -> int | None: ...
    @property
    def stop_ids(self) -> Sequence[int]: ...
    @property
    def max_tokens(self) -> int | None: ...
    @property
    def window(self) -> int | None: ...
    @property
    def text(self) -> bool: ...


def open_run(fiber: Fiber, context: Context, spec: SpecRecord) -> Run:
    """Open a run; an older one of the context is closed."""
    process = process_of(fiber)
    stop = checks.plain(spec.stop_ids)
    if len(stop) > checks.MAX_STOP_IDS:
        raise BadRequest(f"at most {checks.MAX_STOP_IDS} stop ids are allowed, not {len(stop)}")
    tokenizer = context.session.model.tokenizer
    tokenizer.check(stop)
    if spec.max_tokens is not None and spec.max_tokens < 1:
        raise BadRequest("max_tokens must be at least 1")
    if spec.window is not None and not 1 <= spec.window <= MAX_WINDOW:
        raise BadRequest(f"window is {spec.window}: it must be 1 (lockstep) to {MAX_WINDOW}")
    return context.open_run(
        RunSpec(
            sampler=checks.sampler(spec.sampler),
            seed=process.draws.seed() if spec.seed is None else spec.seed,
            stop=stop,
            max_tokens=spec.max_tokens,
            window=process.facilities.window if spec.window is None else spec.window,
            detokenizer=Detokenizer(tokenizer) if spec.text else None,
        )
    )


def next_step(_fiber: Fiber, run: Run) -> Ok | None:
    """The next step, or None when none is here."""
    step: StepResult | None = run.next()
    return None if step is None else Ok(step)


FUNCTIONS: Mapping[str, HostFunction] = {
    "[static]run.open": open_run,
    "[method]run.id": waitable_id,
    "[method]run.next": next_step,
    "[method]run.close": method(Run.close),
}
