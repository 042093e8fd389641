"""The adapters an engine holds: names, versions, memory. Numbers only, no tensor."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

from pie_wire.errors import BadField, Conflict, NotFound, OutOfMemory, TooLarge
from pie_wire.messages.engine import AdapterUse

from pie_engine.adapters.spans import AdapterSet, AdapterVersion
from pie_engine.passes.device import AdapterFacts

MAX_ADAPTERS = 8
"""In one set."""
MAX_WEIGHT = 1e3
"""Far beyond any use, and far from what makes hidden states that are no numbers."""
MAX_VERSIONS = 1024
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,127}")
_DIGEST = re.compile(r"[0-9a-f]{8,32}")


class AdapterTable:
    """Versions by name. At most one of a name is current; others stay while contexts need them."""

    def __init__(self, limit: int) -> None:
        """`limit` bounds the bytes of all versions."""
        self.limit = limit
        self._versions: dict[int, AdapterVersion] = {}
        self._retired: dict[int, AdapterVersion] = {}
        self._next_slot = 1

    @property
    def versions(self) -> Sequence[AdapterVersion]:
        """All that hold memory, oldest first."""
        return list(self._versions.values())

    @property
    def used(self) -> int:
        """Bytes."""
        return sum(version.size for version in self._versions.values())

    @property
    def left(self) -> int:
        """Bytes that the next version may take."""
        return max(0, self.limit - self.used)

    def check_name(self, name: str) -> None:
        """Raise BadField for what cannot name an adapter, OutOfMemory when no more are taken."""
        if not _NAME.fullmatch(name):
            raise BadField(
                f"{name[:200]!r} cannot name an adapter: use letters, digits and . _ / - after a letter or digit, "
                "128 at most"
            )
        if len(self._versions) >= MAX_VERSIONS:
            raise OutOfMemory(f"{MAX_VERSIONS} adapters are loaded: unload one first")

    def add(self, name: str, facts: AdapterFacts) -> tuple[AdapterVersion, bool]:
        """The version of this content, and whether it is new. A new one becomes what its name means.

        Raises OutOfMemory when it does not fit beside the others.
        """
        same = [v for v in self._versions.values() if v.name == name and v.digest == facts.digest]
        if not same and facts.size > self.left:
            raise OutOfMemory(
                f"adapter {name!r} takes {facts.size} bytes and {self.left} of {self.limit} are left: unload another, "
                "or raise adapter_memory"
            )
        for version in self._found(name):
            if version.state == "current":
                self._retire(version, "superseded")
        if same:
            same[0].state = "current"
            self._retired.pop(same[0].slot, None)
            return same[0], False
        version = AdapterVersion(name, facts.digest, self._next_slot, facts.size, facts.rank, facts.modules)
        self._versions[version.slot] = version
        self._next_slot += 1
        return version, True

    def remove(self, reference: str) -> list[AdapterVersion]:
        """What `name` or `name@digest` means is found no more. Raises NotFound."""
        name, _, digest = reference.partition("@")
        gone = self._found(name) if not digest else [self.find(reference)]
        if not gone:
            raise self._unknown(reference)
        for version in gone:
            self._retire(version, "unloaded")
        return gone

    def find(self, reference: str) -> AdapterVersion:
        """The version that `name` or `name@digest` means; a digest may be shortened. Raises NotFound, BadField or
        Conflict."""
        name, at, digest = reference.partition("@")
        found = self._found(name)
        if not at:
            found = [version for version in found if version.state == "current"]
        elif not _DIGEST.fullmatch(digest):
            raise BadField(f"{reference[:200]!r}: a digest has 8 to 32 characters of 0-9a-f")
        else:
            found = [version for version in found if version.digest.hex().startswith(digest)]
        if not found:
            raise self._unknown(reference)
        if len(found) > 1:
            raise Conflict(f"{reference} means {len(found)} versions: give more of the digest")
        return found[0]

    def set_of(self, uses: Sequence[AdapterUse]) -> AdapterSet:
        """The set that an operation asks for. A weight of 0 is as not asked. Raises a typed error."""
        if len(uses) > MAX_ADAPTERS:
            raise TooLarge(f"{len(uses)} adapters at once: {MAX_ADAPTERS} at most")
        members: list[tuple[AdapterVersion, float]] = []
        for use in uses:
            if not abs(use.weight) <= MAX_WEIGHT:
                raise BadField(
                    f"the weight of adapter {use.adapter!r} must be a number up to {MAX_WEIGHT:g} either way, "
                    f"not {use.weight}"
                )
            version = self.find(use.adapter)
            if any(version is other for other, _ in members):
                raise BadField(f"adapter {use.adapter!r} is named twice: add up its weights")
            if use.weight != 0.0:
                members.append((version, use.weight))
        return AdapterSet(tuple(members))

    def sweep(self) -> list[int]:
        """Forget versions that nobody can name any more and no context needs; returns their slots.

        A superseded version that nobody uses is forgotten too: its digest is found only while it is needed.
        """
        gone = [slot for slot, version in self._retired.items() if not version.users]
        for slot in gone:
            del self._versions[slot], self._retired[slot]
        return gone

    def _retire(self, version: AdapterVersion, state: Literal["superseded", "unloaded"]) -> None:
        version.state = state
        self._retired[version.slot] = version

    def _found(self, name: str) -> list[AdapterVersion]:
        return [v for v in self._versions.values() if v.name == name and v.state != "unloaded"]

    def _unknown(self, reference: str) -> NotFound:
        names = sorted({v.name for v in self._versions.values() if v.state == "current"})
        there = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
        return NotFound(f"adapter {reference[:200]!r} is not loaded: " + (f"there is {there}" if names else "load it"))
