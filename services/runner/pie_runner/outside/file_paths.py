"""Paths as programs write them."""

from __future__ import annotations

from dataclasses import dataclass

from pie_wire.capabilities import Room
from pie_wire.errors import BadRequest, Forbidden, NotFound

from pie_runner.outside.tree import MAX_DEPTH

MAX_PATH = 4096
MAX_NAME_BYTES = 255


@dataclass(frozen=True)
class FilePath:
    """A place below `/scratch` or `/data`; `parts` is empty for the room itself."""

    room: Room
    parts: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> FilePath:
        """Read a path.

        Raises:
            BadRequest: not absolute, or a name that none can be. Forbidden: it goes up. NotFound: another room.
        """
        if len(text) > MAX_PATH or not text.startswith("/"):
            raise BadRequest(f"{text[:80]!r} is no path: expected an absolute one below /scratch or /data")
        parts = [part for part in text.split("/") if part not in ("", ".")]
        for part in parts:
            if part == "..":
                raise Forbidden(f"{text[:80]!r} goes up by `..`, which no path may")
            if "\0" in part or len(part.encode("utf-8", "surrogatepass")) > MAX_NAME_BYTES:
                raise BadRequest(f"{part[:80]!r} can be no file's name: at most {MAX_NAME_BYTES} bytes, and no NUL")
        if len(parts) > MAX_DEPTH:
            raise BadRequest(f"a path has at most {MAX_DEPTH} names, not {len(parts)}")
        match parts:
            case ["scratch", *rest]:
                return cls("scratch", tuple(rest))
            case ["data", *rest]:
                return cls("data", tuple(rest))
            case _:
                raise NotFound(f"there is no {text[:80]}: files are below /scratch and /data")

    def __str__(self) -> str:
        return "/".join(("", self.room, *self.parts))
