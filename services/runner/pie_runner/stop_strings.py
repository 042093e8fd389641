"""Ending a text at one of several strings, which may be spread over any number of pieces."""

from __future__ import annotations

from collections.abc import Sequence


class StopStrings:
    """Passes text through until one of the strings is complete; holds back what could be the beginning of one."""

    def __init__(self, strings: Sequence[str]) -> None:
        """None of them is empty."""
        self._followers = [_Follower(string) for string in dict.fromkeys(strings)]
        self._held = ""
        self.found = False
        """One was completed: nothing more is passed through."""

    def feed(self, piece: str) -> str:
        """What may be shown now. Once a string is complete, the text before it; of several that the same piece
        completes, before the one that begins first."""
        if self.found or not piece:
            return ""
        text = self._held + piece
        begins = [at for follower in self._followers if (at := follower.feed(piece)) is not None]
        if begins:
            self.found = True
            self._held = ""
            return text[: len(text) - max(begins)]
        shown = len(text) - max(follower.matched for follower in self._followers)
        self._held = text[shown:]
        return text[:shown]

    def finish(self) -> str:
        """What was held back and turned out to be no stop string."""
        held, self._held = self._held, ""
        return held


class _Follower:
    """How much of one string the text so far ends with (Knuth, Morris, Pratt: Fast pattern matching in strings, 1977):
    a step for each character, whatever the strings."""

    def __init__(self, string: str) -> None:
        self._string = string
        self._borders = _borders(string)
        self.matched = 0

    def feed(self, piece: str) -> int | None:
        """How many characters before the piece's end the string begins, if it is complete; else None."""
        string, matched = self._string, self.matched
        for index, character in enumerate(piece):
            while matched and string[matched] != character:
                matched = self._borders[matched - 1]
            if string[matched] == character:
                matched += 1
                if matched == len(string):
                    self.matched = 0
                    return len(string) + len(piece) - index - 1
        self.matched = matched
        return None


def _borders(string: str) -> list[int]:
    """Per prefix, the length of its longest border."""
    borders = [0] * len(string)
    length = 0
    for index in range(1, len(string)):
        while length and string[index] != string[length]:
            length = borders[length - 1]
        if string[index] == string[length]:
            length += 1
        borders[index] = length
    return borders
