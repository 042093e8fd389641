"""Explicit passes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, cast

from pie_wire.errors import BadRequest, TooLarge
from pie_wire.messages.engine import Mask, Output

from pie_runner.host import checks
from pie_runner.host.futures import waitable_id
from pie_runner.host.methods import method
from pie_runner.host.probes import check_entries, probe
from pie_runner.host.samplers import SamplerRecord, check_size, sampler
from pie_runner.passes import PendingOutput, Shape
from pie_runner.probes import row_bytes
from pie_runner.process import process_of
from pie_runner.wasm.hostcall import Case, Err, HostFunction, Ok, Pending

if TYPE_CHECKING:
    from pie_runner.contexts import Context
    from pie_runner.wasm.fiber import Fiber

MAX_OUTPUTS = 1024
MAX_WHOLE_ROWS = 64
MAX_MASK_NUMBERS = 262_144
MAX_GUESSES = 256


class DrawRecord(Protocol):
    """The WIT's `draw`."""

    @property
    def rows(self) -> Sequence[int]: ...
    @property
    def sampler(self) -> SamplerRecord: ...
    @property
    def seed(self) -> int | None: ...
    @property
    def start(self) -> int | None: ...
    @property
    def stop_ids(self) -> Sequence[int]: ...


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
    def positions(self) -> Sequence[int]: ...
    @property
    def mask(self) -> Case: ...
    @property
    def draws(self) -> Sequence[DrawRecord]: ...
    @property
    def probes(self) -> Sequence[ProbeRecord]: ...


class WindowMask(Protocol):
    """The WIT's `window-mask`."""

    @property
    def window(self) -> int: ...
    @property
    def sink(self) -> int: ...


class GuessesRecord(Protocol):
    """The WIT's `guesses`."""

    @property
    def tokens(self) -> Sequence[int]: ...
    @property
    def parents(self) -> Sequence[int]: ...
    @property
    def sampler(self) -> SamplerRecord: ...
    @property
    def seed(self) -> int | None: ...


_CAUSAL = Mask()


def compute(fiber: Fiber, context: Context, request: PassRecord) -> Ok | Err | Pending:
    """Run one pass; the answer is its output."""
    output = execute(fiber, context, request)

    def take() -> Ok | Err | None:
        got = output.get()
        output.close()
        return got

    return output.taken(fiber, take, output.close)


def execute(fiber: Fiber, context: Context, request: PassRecord) -> PendingOutput:
    """Run one pass."""
    process = process_of(fiber)
    vocab = context.session.facts.vocab
    tokens = checks.plain(request.tokens)
    context.session.model.tokenizer.check(tokens)
    positions = checks.plain(request.positions)
    if positions and len(positions) != len(tokens):
        raise BadRequest(f"{len(tokens)} tokens need as many positions or none, not {len(positions)}")
    rows = max(1, len(tokens))
    if len(request.probes) + sum(len(draw.rows) for draw in request.draws) > MAX_OUTPUTS:
        raise TooLarge(f"a pass has at most {MAX_OUTPUTS} outputs, draws and probes together")
    outputs: list[Output] = []
    shape: list[int] = []
    samplers = [(sampler(draw.sampler, vocab), len(draw.rows)) for draw in request.draws]
    check_size(samplers)
    for draw, (spec, count) in zip(request.draws, samplers, strict=True):
        seed = process.draws.seed() if draw.seed is None else draw.seed
        stop = checks.ids(draw.stop_ids, "stop_ids", vocab) if draw.stop_ids else []
        shape.append(count)
        outputs.extend(
            Output(_row(row, rows), "token", spec, seed, start=draw.start, stop=stop) for row in checks.plain(draw.rows)
        )
    probes = [probe(asked.kind, vocab, _row(asked.row, rows)) for asked in request.probes]
    if sum(asked.is_row for asked in probes) > MAX_WHOLE_ROWS:
        raise TooLarge(f"a pass returns at most {MAX_WHOLE_ROWS} whole rows: use several, or a smaller k")
    check_entries(probes, vocab)
    outputs.extend(asked.output for asked in probes)
    mask = _CAUSAL if request.mask.tag == "causal" else _mask(request.mask, rows)
    return context.forward(
        tokens, outputs, Shape(shape, probes), positions=positions, mask=mask, rows=row_bytes(probes, vocab)
    )


def verify(fiber: Fiber, context: Context, guesses: GuessesRecord) -> PendingOutput:
    """Try guesses of what follows."""
    tokens, parents = checks.plain(guesses.tokens), checks.plain(guesses.parents)
    context.session.model.tokenizer.check(tokens)
    if len(tokens) > MAX_GUESSES:
        raise TooLarge(f"at most {MAX_GUESSES} guesses can be verified at once, not {len(tokens)}")
    if len(parents) != len(tokens):
        raise BadRequest(f"{len(tokens)} guesses need as many parents, not {len(parents)}")
    wrong = next((i for i, parent in enumerate(parents) if not -1 <= parent < i), None)
    if wrong is not None:
        raise BadRequest(f"guess {wrong} must follow an earlier guess, or -1, not {parents[wrong]}")
    spec = sampler(guesses.sampler, context.session.facts.vocab)
    check_size([(spec, 1)])
    seed = process_of(fiber).draws.seed() if guesses.seed is None else guesses.seed
    return context.verify(tokens, parents, Output(0, "token", spec, seed))


def _row(row: int, rows: int) -> int:
    if not 0 <= row < rows:
        raise BadRequest(f"row {row} does not exist: the pass has {rows}")
    return row


def _mask(mask: Case, rows: int) -> Mask:
    match mask.tag:
        case "window":
            window = cast("WindowMask", mask.value)
            if window.window < 1:
                raise BadRequest("a window shows at least 1 slot, the row's own")
            return Mask("window", window.window, window.sink)
        case "runs":
            lists = [checks.plain(row) for row in cast("Sequence[Sequence[int]]", mask.value)]
            _check_count(len(lists), rows)
            if sum(map(len, lists)) > MAX_MASK_NUMBERS:
                raise TooLarge(f"the masks of a pass have at most {MAX_MASK_NUMBERS} numbers: split the pass")
            return Mask("runs", runs=lists)
        case _:
            parents = checks.plain(cast("Sequence[int]", mask.value))
            _check_count(len(parents), rows)
            wrong = next((i for i, parent in enumerate(parents) if not -1 <= parent < i), None)
            if wrong is not None:
                raise BadRequest(f"row {wrong} of the tree must follow an earlier row, or -1, not {parents[wrong]}")
            return Mask("tree", parents=parents)


def _check_count(count: int, rows: int) -> None:
    if count != rows:
        raise BadRequest(f"the mask is for {count} rows, and the pass has {rows}")


FUNCTIONS: Mapping[str, HostFunction] = {
    "execute": execute,
    "compute": compute,
    "verify": verify,
    "[method]pending-output.id": waitable_id,
    "[method]pending-output.get": method(PendingOutput.get),
}
