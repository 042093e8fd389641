"""Ending a text at a string, which may be spread over several tokens."""

from __future__ import annotations

from collections.abc import Sequence


class StopStrings:
    """Passes text through until one of the strings appears; holds back what could be the beginning of one."""

    def __init__(self, strings: Sequence[str]) -> None:
        self._strings = strings
        self._held = ""

    def feed(self, text: str) -> tuple[str, bool]:
        """What may be shown of the text so far, and whether a stop string was found (it is not shown)."""
        text = self._held + text
        found = [at for string in self._strings if (at := text.find(string)) >= 0]
        if found:
            self._held = ""
            return text[: min(found)], True
        keep = max((self._overlap(text, string) for string in self._strings), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep], False

    def finish(self) -> str:
        """What was held back and turned out to be no stop string."""
        held, self._held = self._held, ""
        return held

    @staticmethod
    def _overlap(text: str, string: str) -> int:
        return next((n for n in range(min(len(text), len(string) - 1), 0, -1) if text.endswith(string[:n])), 0)
