"""stdout and stderr of the program, as events of its process."""

from __future__ import annotations

import codecs
import io
import sys
from collections.abc import Callable

from wit_world.imports import log


class _HostRaw(io.RawIOBase):
    """Whole characters to one of the host's output functions."""

    def __init__(self, emit: Callable[[str], None]) -> None:
        self._emit = emit
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def writable(self) -> bool:
        return True

    def write(self, data: bytes | bytearray | memoryview) -> int:
        text = self._decoder.decode(bytes(data))
        if text:
            self._emit(text)
        return len(data)


def install() -> None:
    """Send `print` and tracebacks to the host, a line at a time."""
    for name, emit in (("stdout", log.stdout), ("stderr", log.stderr)):
        stream = io.TextIOWrapper(io.BufferedWriter(_HostRaw(emit)), encoding="utf-8", line_buffering=True)
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def flush() -> None:
    """Send what has no line end yet."""
    sys.stdout.flush()
    sys.stderr.flush()
