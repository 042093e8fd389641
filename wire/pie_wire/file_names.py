"""Names of files that travel between programs and clients."""

from __future__ import annotations

from pie_wire.errors import BadRequest

MAX_NAME_BYTES = 255
PART_BYTES = 255 << 10
"""Of a file in one message or event; a multiple of three, so that base64 of parts is base64 of the whole."""


def file_name(name: str) -> str:
    """The same name, if it is that of one file in any folder: it can lead nowhere else. Raises BadRequest."""
    if (
        not name
        or name in (".", "..")
        or "/" in name
        or "\\" in name
        or not name.isprintable()
        or len(name.encode(errors="surrogatepass")) > MAX_NAME_BYTES
    ):
        raise BadRequest(
            f"{name[:80]!r} is no file name: expected 1 to {MAX_NAME_BYTES} bytes of printable characters, no slashes"
        )
    return name
