"""Writes docs/protocol/golden.json: run it after a change to golden_cases.py, and read the difference it makes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import msgspec
from golden_cases import CASES, Case
from pie_wire.codec import encode, encode_body
from pie_wire.messages.base import Message

GOLDEN = Path(__file__).parents[2] / "docs" / "protocol" / "golden.json"


def plain(value: object) -> Any:
    """A value as JSON can hold it: bytes become {"hex": ...}."""
    match value:
        case bytes():
            return {"hex": value.hex()}
        case dict():
            return {str(key): plain(item) for key, item in cast("dict[str, object]", value).items()}
        case list() | tuple():
            return [plain(item) for item in cast("list[object]", value)]
        case _:
            return value


def golden(case: Case) -> dict[str, Any]:
    """One case in its published form."""
    frames = encode(case.verb, case.header, encode_body(case.message), case.buffers)
    return {
        "name": case.name,
        "verb": case.verb.decode(),
        "message": case.message.verb if isinstance(case.message, Message) else "error",
        "header": plain(msgspec.to_builtins(case.header)),
        "body": plain(msgspec.to_builtins(case.message, builtin_types=(bytes,))),
        "buffers": [buffer.hex() for buffer in case.buffers],
        "frames": [bytes(frame).hex() for frame in frames],
    }


def render() -> str:
    """The file's text."""
    entries = ",\n".join(json.dumps(golden(case), ensure_ascii=True) for case in CASES)
    return f"[\n{entries}\n]\n"


def main() -> None:
    GOLDEN.parent.mkdir(parents=True, exist_ok=True)
    GOLDEN.write_text(render())


if __name__ == "__main__":
    main()
