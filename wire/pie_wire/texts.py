"""The size of texts, where bytes are counted."""

from __future__ import annotations


def byte_size(value: str | bytes) -> int:
    """Bytes of a text in UTF-8, or of what are bytes already. For ASCII it takes no time, whatever the length."""
    if isinstance(value, bytes) or value.isascii():
        return len(value)
    return len(value.encode())
