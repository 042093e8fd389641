"""Where a launched program comes from."""

from __future__ import annotations

from dataclasses import dataclass

from pie_wire.capabilities import Capabilities, Grants


@dataclass(eq=False)
class Lineage:
    """Of a launch by a program. The process's record takes it over when the process is made."""

    parent: str
    root: str
    """Pid of the process at the head of the tree, which a client launched."""
    depth: int
    """1 for its children."""
    detached: bool
    """It lives on when its parent ends."""
    capabilities: Capabilities
    """What the parent may do: the child may do no more."""
    allow: Grants
    """What the user granted to the whole tree."""
