"""Finds where a JSON object or array ends, character by character, in text that is still coming."""

from __future__ import annotations


class JsonEnd:
    """Feed it text from the opening bracket on."""

    def __init__(self) -> None:
        self._depth = 0
        self._string = False
        self._escaped = False

    def find(self, text: str, start: int = 0) -> int | None:
        """Index behind the closing bracket, or None when it is not in this text. Every character is fed once."""
        for at in range(start, len(text)):
            character = text[at]
            if self._string:
                if self._escaped:
                    self._escaped = False
                elif character == "\\":
                    self._escaped = True
                elif character == '"':
                    self._string = False
            elif character == '"':
                self._string = True
            elif character in "{[":
                self._depth += 1
            elif character in "}]":
                self._depth -= 1
                if self._depth <= 0:
                    return at + 1
        return None
