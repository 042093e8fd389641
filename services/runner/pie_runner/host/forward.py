"""Explicit passes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from pie_wire.errors import BadRequest, TooLarge
from pie_wire.messages.engine import Output

from pie_runner.host import checks
from pie_runner.host.futures import waitable_id
from pie_runner.host.methods import method
from pie_runner.passes import PendingOutput, Shape, Softmax
from pie_runner.process import process_of
from pie_runner.wasm.hostcall import Case, HostFunction

if TYPE_CHECKING:
    from pie_runner.contexts import Context
    from pie_runner.wasm.fiber import Fiber

MAX_OUTPUTS = 1024
MAX_LOGIT_ROWS = 64
ENGINE_TOP = 1024
"""Larger or rescaled distributions are made here from the logits; these the engine makes."""


class DrawRecord(Protocol):
    """The WIT's `draw`."""

    @property
    def rows(self) -> Sequence[int]: ...
    @property
    def sampler(self) -> checks.SamplerRecord: ...
    @property
    def seed(self) -> int | None: ...


class ProbeRecord(Protocol):
    """The WIT's `probe`."""

    @property
    def row(self) -> int: ...
    @property
    def kind(self) -> Case: ...


class PassRecord(Protocol):
    """The WIT's `pass`."""

    @property
    def tokens(self) -> Sequence[int]: ...
    @property
    def draws(self) -> Sequence[DrawRecord]: ...
    @property
    def probes(self) -> Sequence[ProbeRecord]: ...


class DistributionSpec(Protocol):
    """The WIT's `distribution-spec`."""

    @property
    def temperature(self) -> float: ...
    @property
    def k(self) -> int: ...


def execute(fiber: Fiber, context: Context, request: PassRecord) -> PendingOutput:
    """Run one pass."""
    process = process_of(fiber)
    tokens = checks.plain(request.tokens)
    context.session.model.tokenizer.check(tokens)
    rows = max(1, len(tokens))
    outputs: list[Output] = []
    shape: list[int] = []
    for draw in request.draws:
        spec = checks.sampler(draw.sampler)
        seed = process.draws.seed() if draw.seed is None else draw.seed
        drawn = checks.plain(draw.rows)
        shape.append(len(drawn))
        outputs.extend(Output(_row(row, rows), "token", spec, seed) for row in drawn)
    probes = [_probe(_row(probe.row, rows), probe.kind, context.session.facts.vocab) for probe in request.probes]
    outputs.extend(output for output, _ in probes)
    if len(outputs) > MAX_OUTPUTS:
        raise TooLarge(f"a pass has at most {MAX_OUTPUTS} outputs, not {len(outputs)}")
    if sum(1 for output, _ in probes if output.kind == "logits") > MAX_LOGIT_ROWS:
        raise TooLarge(f"a pass returns at most {MAX_LOGIT_ROWS} whole-vocabulary rows: use several, or a smaller k")
    return context.forward(tokens, outputs, Shape(shape, [softmax for _, softmax in probes]))


def _row(row: int, rows: int) -> int:
    if not 0 <= row < rows:
        raise BadRequest(f"row {row} does not exist: the pass has {rows}")
    return row


def _probe(row: int, kind: Case, vocab: int) -> tuple[Output, Softmax | None]:
    if kind.tag == "logits":
        return Output(row, "logits"), None
    spec: DistributionSpec = kind.value  # pyright: ignore[reportAssignmentType] - the codec made it from the WIT record
    if not (math.isfinite(spec.temperature) and spec.temperature > 0):
        raise BadRequest(f"a distribution's temperature is {spec.temperature}: it must be positive")
    top = vocab if spec.k == 0 else min(spec.k, vocab)
    if spec.temperature == 1 and top <= ENGINE_TOP:
        return Output(row, "top", top=top), None
    return Output(row, "logits"), Softmax(spec.temperature, top)


FUNCTIONS: Mapping[str, HostFunction] = {
    "execute": execute,
    "[method]pending-output.id": waitable_id,
    "[method]pending-output.get": method(PendingOutput.get),
}
