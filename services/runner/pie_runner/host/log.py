"""Output and the operator's log."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import structlog

from pie_runner.process import process_of
from pie_runner.wasm.hostcall import HostFunction, Pending, TooMuchError

if TYPE_CHECKING:
    from pie_runner.wasm.fiber import Fiber

LINES_A_SECOND = 100
MAX_LINE = 8192
MAX_OUTPUT = 16 << 20
"""Characters that one call prints; they are held until there is room."""

operator_log = structlog.get_logger("pie.program")


def _checked(text: str) -> str:
    if len(text) > MAX_OUTPUT:
        raise TooMuchError(f"at most {MAX_OUTPUT} characters are printed at once")
    return text


def stdout(fiber: Fiber, text: str) -> Pending | None:
    """Parks while the unacknowledged output is full."""
    return process_of(fiber).emit_text(fiber, "stdout", _checked(text)) if text else None


def stderr(fiber: Fiber, text: str) -> Pending | None:
    """Parks while the unacknowledged output is full."""
    return process_of(fiber).emit_text(fiber, "stderr", _checked(text)) if text else None


def write(fiber: Fiber, level: str, message: str) -> None:
    """Dropped beyond LINES_A_SECOND."""
    process = process_of(fiber)
    _checked(message)
    second = process.facilities.hub.clock() // 1
    if process.log_second != second:
        process.log_second, process.log_lines = second, 0
    process.log_lines += 1
    if process.log_lines <= LINES_A_SECOND:
        method = {"debug": operator_log.debug, "info": operator_log.info, "warning": operator_log.warning}
        method.get(level, operator_log.error)(
            message[:MAX_LINE], pid=process.pid, program=process.title, trace=process.scope.trace
        )


FUNCTIONS: Mapping[str, HostFunction] = {"stdout": stdout, "stderr": stderr, "write": write}
