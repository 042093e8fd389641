"""From wasmtime's error texts to typed failures of a process."""

from __future__ import annotations

import errno
import re

from pie_wire.errors import LimitExceeded, Overloaded, PieError, ProgramError, Trapped

from pie_runner.wasm.ffi import WasmError

_MAX_FRAMES = 24
_NO_MEMORY = f"(os error {errno.ENOMEM})"
_CAUSE = re.compile(r"^\s*(?:\d+:\s+)?(.+?)\s*$")


def failure_of(error: WasmError, stderr: str = "") -> PieError:
    """What a trap or a failed instantiation means for the process. `stderr`: the last the guest wrote there."""
    if error.exit_status is not None:
        return ProgramError(_joined(f"The program called exit({error.exit_status}).", stderr))
    head, _, causes = error.text.partition("Caused by:")
    cause = _last_line(causes) or _last_line(head)
    trace = _backtrace(head)
    if "call stack exhausted" in cause:
        return LimitExceeded(_joined("The program passed its stack limit (recursion too deep).", trace, stderr))
    if "fuel allocated for hostcalls" in cause:
        # wasmtime's bound on one call: 128 MiB of its value form, in which each list element takes 32 bytes.
        text = "The program passed too much in one host call: at most about 4 million list elements, 128 MiB of text."
        return LimitExceeded(_joined(text, trace, stderr))
    if _NO_MEMORY in cause:
        return Overloaded(
            f"This runner has no memory, or no memory mappings, for another program ({cause}): try again when programs "
            "have ended, or add runners."
        )
    if "forcing trap when growing memory" in cause or "exceeds memory limits" in cause:
        return LimitExceeded(_joined("The program passed its limit `memory`.", trace, stderr))
    if "resource limit exceeded" in cause or "exceeds table limits" in cause:
        what = cause.removeprefix("resource limit exceeded: ")
        return LimitExceeded(_joined(f"The program has more parts than it may have: {what}.", trace, stderr))
    return Trapped(_joined(f"The program trapped: {cause.removeprefix('wasm trap: ')}.", trace, stderr))


def _last_line(text: str) -> str:
    lines = [line for line in text.strip().splitlines() if line.strip()]
    match = _CAUSE.match(lines[-1]) if lines else None
    return match.group(1) if match else ""


def _backtrace(head: str) -> str:
    _, found, frames = head.partition("wasm backtrace:")
    if not found:
        return ""
    lines = [line.rstrip() for line in frames.strip("\n").splitlines() if line.strip()]
    if len(lines) > _MAX_FRAMES:
        half = _MAX_FRAMES // 2
        lines = [*lines[:half], f"    ... {len(lines) - 2 * half} frames ...", *lines[-half:]]
    return "wasm backtrace:\n" + "\n".join(lines)


def _joined(*parts: str) -> str:
    return "\n".join(part for part in parts if part)
