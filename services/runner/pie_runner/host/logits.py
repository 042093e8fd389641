"""Rows of raw logits that stay here, for samplers of programs' own."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from pie_runner.host import checks
from pie_runner.host.methods import method, reading
from pie_runner.logits import MAX_BYTES, Logits
from pie_runner.process import process_of
from pie_runner.resident import Resident
from pie_runner.wasm.hostcall import HostFunction, Ok

if TYPE_CHECKING:
    from pie_wire.codec import Buffer

    from pie_runner.wasm.fiber import Fiber


def from_bytes(fiber: Fiber, data: str) -> Resident:
    """A row of the program's own."""
    usage = process_of(fiber).usage
    usage.check_rows(len(data) * 3 // 4)
    row: Buffer = checks.binary(data, "a row of logits", MAX_BYTES)
    return Resident(Logits.of_bytes(row), usage)


def mask(_fiber: Fiber, held: Resident, bits: str) -> Ok:
    """Forbid what packed bits do not allow."""
    held.row.mask(checks.binary(bits, "a token mask", checks.MAX_MASK))
    return Ok()


def draw(fiber: Fiber, held: Resident) -> int:
    """Sample by a number that is recorded with the process."""
    return held.row.sample(process_of(fiber).draws.uniform())


def _asking(ask: Callable[..., object]) -> HostFunction:
    """A method of the row as a host function."""

    def call(_fiber: Fiber, held: Resident, *arguments: Any) -> Ok:
        return Ok(ask(held.row, *arguments))

    return call


FUNCTIONS: Mapping[str, HostFunction] = {
    "[method]logits.vocab-size": reading(Resident, lambda held: held.row.vocab),
    "[method]logits.fork": method(Resident.fork),
    "[method]logits.read": reading(Resident, lambda held: base64.b64encode(held.row.to_bytes()).decode("ascii")),
    "[static]logits.from-bytes": from_bytes,
    "[method]logits.topk": _asking(Logits.topk),
    "[method]logits.gather": _asking(Logits.gather),
    "[method]logits.argmax": _asking(Logits.argmax),
    "[method]logits.entropy": _asking(Logits.entropy),
    "[method]logits.bias": _asking(Logits.bias),
    "[method]logits.mask": mask,
    "[method]logits.allow": _asking(Logits.allow),
    "[method]logits.temperature": _asking(Logits.temperature),
    "[method]logits.log-softmax": _asking(Logits.log_softmax),
    "[method]logits.penalize": _asking(Logits.penalize),
    "[method]logits.keep-top-k": _asking(Logits.keep_top_k),
    "[method]logits.keep-top-p": _asking(Logits.keep_top_p),
    "[method]logits.keep-min-p": _asking(Logits.keep_min_p),
    "[method]logits.keep-typical-p": _asking(Logits.keep_typical_p),
    "[method]logits.sample": _asking(Logits.sample),
    "[method]logits.draw": draw,
}
