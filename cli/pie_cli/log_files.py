"""Log files of the services: appended to by each service itself, bounded by the supervisor."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import msgspec

MAX_BYTES = 8 << 20
KEPT = 3
"""Older files kept per service: NAME.log.1 is the newest of them."""


class LogLine(msgspec.Struct, frozen=True):
    """What matters of a service's JSON log line."""

    event: str
    level: str = "info"
    timestamp: str = ""
    service: str = ""
    name: str = ""
    reason: str = ""


def parse_line(line: str) -> LogLine | None:
    """A structured line, or None for any other text (a traceback, a library's print)."""
    try:
        return msgspec.json.decode(line, type=LogLine)
    except msgspec.DecodeError:
        return None


def last_reason(lines: Sequence[str]) -> str:
    """Why a process ended, as far as its last lines tell: its last error, or a traceback's last line."""
    for line in reversed(lines):
        parsed = parse_line(line)
        if parsed is None:
            if line.strip():
                return line.strip()
        elif parsed.level in ("error", "critical"):
            return parsed.reason or parsed.event
    return ""


def rotate(path: Path, max_bytes: int = MAX_BYTES) -> bool:
    """Copy a log that has grown too large aside and cut it. The writer has it open for appending and goes on at its
    new end; lines written in the moment between are lost, which is the price of not standing between it and the disk.
    """
    try:
        if path.stat().st_size < max_bytes:
            return False
    except FileNotFoundError:
        return False
    for number in range(KEPT - 1, 0, -1):
        older = path.with_name(f"{path.name}.{number}")
        if older.exists():
            older.replace(path.with_name(f"{path.name}.{number + 1}"))
    shutil.copyfile(path, path.with_name(f"{path.name}.1"))
    with path.open("r+b") as file:
        file.truncate(0)
    return True


def tail(path: Path, lines: int, max_bytes: int = 256 << 10) -> list[str]:
    """The last lines of a log, none if there is no log."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - max_bytes))
            text = file.read().decode(errors="replace")
    except FileNotFoundError:
        return []
    return text.splitlines()[-lines:]
