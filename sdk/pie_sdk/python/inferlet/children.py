"""Other programs, launched by this one. The manifest must ask for it: `children = true` under [capabilities]."""

from __future__ import annotations

import json
from typing import Any

from wit_world.imports import children as raw

from inferlet import loop
from inferlet.errors import host_errors, unwrap


def launch(program: str, input: Any = None, *, near: str | None = None, detached: bool = False) -> Child:  # noqa: A002
    """Start `NAME` or `NAME@VERSION` with a JSON input (`{}` if None), as this user and with no more rights than this
    program. `near`: place it where this snapshot has its KV. `detached`: it lives on when this program ends.

    Does not wait: an error of the launch itself is raised by `result`. Raises PieError `forbidden` or `limit_exceeded`.
    """
    text = "{}" if input is None else json.dumps(input)
    with host_errors():
        return Child(raw.launch(raw.LaunchRequest(program, text, near, detached)))


class Child:
    """A launched program. It ends with this one unless it is detached."""

    def __init__(self, handle: raw.Child) -> None:
        self._handle = handle
        self.pid = handle.pid()

    def __repr__(self) -> str:
        return f"Child({self.pid!r})"

    @property
    def is_done(self) -> bool:
        """Whether `result` would answer at once."""
        return self._handle.get() is not None

    async def result(self) -> Any:
        """What it returned; may be asked again. Raises PieError: why it failed (`cancelled` after `cancel`)."""
        return json.loads(unwrap(await loop.result(self._handle)))

    def cancel(self) -> None:
        """End it. Repeats are harmless."""
        self._handle.cancel()

    def detach(self) -> None:
        """Let it live on when this program ends."""
        self._handle.detach()
