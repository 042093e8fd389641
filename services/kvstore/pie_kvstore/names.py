"""What names, digests and versions may look like. Everything that becomes part of a key passes through here."""

from __future__ import annotations

import functools
import re

from pie_wire.errors import BadField

_MEMBER = re.compile(r"[a-zA-Z0-9][\w.-]{0,63}", re.ASCII)
_PROGRAM = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_PID = re.compile(r"[0-9a-f]{32}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_SEMVER = re.compile(
    r"(0|[1-9]\d{0,9})\.(0|[1-9]\d{0,9})\.(0|[1-9]\d{0,9})"
    r"(?:-((?:0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*)(?:\.(?:0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*))*))?"
    r"(?:\+([0-9a-zA-Z-]+(?:\.[0-9a-zA-Z-]+)*))?",
    re.ASCII,
)
MAX_SNAPSHOT_NAME = 256
MAX_TOPIC_NAME = 200
MAX_OWNER = 128
MAX_VERSION = 64


def member(name: str) -> str:
    """A service's kind or name. Raises BadField."""
    return _check(_MEMBER, name, "a member name: letters, digits, '.', '_' and '-', 64 at most")


def program(name: str) -> str:
    """Raises BadField."""
    return _check(_PROGRAM, name, "a program name: lower-case letters, digits, '.', '_' and '-', 64 at most")


def pid(text: str) -> str:
    """Raises BadField."""
    return _check(_PID, text, "a process id: 32 hex digits")


def digest(text: str) -> str:
    """Raises BadField."""
    return _check(_DIGEST, text, "a SHA-256 digest: 64 lower-case hex digits")


def snapshot(name: str) -> str:
    """Raises BadField."""
    if not 1 <= len(name) <= MAX_SNAPSHOT_NAME or not name.isprintable():
        raise BadField(f"a snapshot name has 1 to {MAX_SNAPSHOT_NAME} printable characters")
    return name


def topic(name: str) -> str:
    """Raises BadField."""
    if not 1 <= len(name) <= MAX_TOPIC_NAME or not name.isprintable():
        raise BadField(f"a topic name has 1 to {MAX_TOPIC_NAME} printable characters")
    return name


def owner(tenant: str, user: str) -> tuple[str, str]:
    """Raises BadField."""
    for text in (tenant, user):
        if not 1 <= len(text) <= MAX_OWNER or not text.isprintable():
            raise BadField(f"tenant and user have 1 to {MAX_OWNER} printable characters")
    return tenant, user


@functools.total_ordering
class Version:
    """A semantic version (semver.org 2.0.0), ordered by precedence: build metadata breaks ties only."""

    def __init__(self, text: str) -> None:
        """Raises BadField for what is no semantic version."""
        match = _SEMVER.fullmatch(text) if len(text) <= MAX_VERSION else None
        if match is None:
            raise BadField(f"{text[:80]!r} is no semantic version; write MAJOR.MINOR.PATCH, as in 1.4.0 or 2.0.0-rc.1")
        self.text = text
        major, minor, patch, pre, build = match.groups()
        # A release is above its pre-releases; numeric identifiers compare as numbers and are below others.
        identifiers = tuple((0, int(part), "") if part.isdecimal() else (1, 0, part) for part in (pre or "").split("."))
        self._rank = (int(major), int(minor), int(patch), pre is None, identifiers if pre else (), build or "")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Version) and self._rank == other._rank

    def __lt__(self, other: Version) -> bool:
        return self._rank < other._rank

    def __hash__(self) -> int:
        return hash(self._rank)


def _check(pattern: re.Pattern[str], text: str, expected: str) -> str:
    if not pattern.fullmatch(text):
        raise BadField(f"{text[:80]!r} is not {expected}")
    return text
