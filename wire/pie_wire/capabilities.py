"""What programs may do outside of the sandbox: asked by manifests, granted by the operator, passed to runners.

A program may do what it asks for *and* is granted, and, launched by another program, what that one may do too.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable
from typing import Any, Literal, cast

import msgspec

from pie_wire.errors import BadField, Forbidden
from pie_wire.hosts import HostPattern

Room = Literal["scratch", "data"]

MAX_ENTRIES = 256
MCP_NAME = re.compile(r"[a-zA-Z0-9](?:[a-zA-Z0-9_.-]{0,62}[a-zA-Z0-9])?")


class Grants(msgspec.Struct, frozen=True, omit_defaults=True):
    """A list of capabilities; nothing that is not listed. Clocks, randomness, models, the client and messages to other
    programs of the same user need none."""

    http: list[str] = []
    """Host patterns, as `pie_wire.hosts` reads them."""
    filesystem: list[Room] = []
    """`scratch`: files that end with the process. `data`: files of the user and the program, which stay."""
    mcp: list[str] = []
    """Names of tool servers."""
    children: bool = False
    """Launching other programs."""

    def __or__(self, other: Grants) -> Grants:
        return Grants(
            _union(self.http, other.http),
            _union(self.filesystem, other.filesystem),
            _union(self.mcp, other.mcp),
            self.children or other.children,
        )

    def __bool__(self) -> bool:
        return bool(self.http or self.filesystem or self.mcp or self.children)

    def words(self) -> list[str]:
        """As `pie run --allow` takes them: `http=api.example.com`, `filesystem=data`, `children`."""
        lists = {"http": self.http, "filesystem": self.filesystem, "mcp": self.mcp}
        found = [f"{name}={item}" for name, items in lists.items() for item in items]
        return [*found, "children"] if self.children else found


class Capabilities(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one process may do: what is in `asked` and in `granted`, and what its parent may do. By default nothing."""

    asked: Grants = Grants()
    granted: Grants = Grants()
    parent: Capabilities | None = None
    """Of the program that launched it, if one did."""

    def of_child(self, asked: Grants, granted: Grants) -> Capabilities:
        """Those of a program that this one launches."""
        return Capabilities(asked, granted, self)

    def require(self, allows: Callable[[Grants], bool], what: str, line: str, word: str) -> None:
        """Raise Forbidden unless all sides allow it. `line` is the entry of a manifest that asks for it, `word` the
        argument of `pie run --allow`."""
        if not allows(self.asked):
            raise Forbidden(
                f"{what} is not allowed: the program does not ask for it. Put `{line}` under [capabilities] in its "
                f"Pie.toml; a file can be run with `pie run FILE --allow {word}`"
            )
        if not allows(self.granted):
            raise Forbidden(
                f"{what} is not allowed: the manifest asks for it, but the operator does not grant it. The operator "
                f"can put `{line}` into a [[grant]] of the gateway's policy file (setting `policy`); where users may "
                f"grant (`user_grants`), `pie run --allow {word}` does it for one run"
            )
        parent = self.parent
        while parent is not None:
            if not (allows(parent.asked) and allows(parent.granted)):
                raise Forbidden(f"{what} is not allowed: a program may do no more than the one that launched it")
            parent = parent.parent


def asked_by(manifest: str) -> Grants:
    """The `[capabilities]` of a manifest (TOML); without one, nothing.

    Raises:
        BadField: not TOML, an unknown capability, or an entry that is malformed.
    """
    try:
        tree = tomllib.loads(manifest)
    except (tomllib.TOMLDecodeError, RecursionError) as exc:
        raise BadField(f"Pie.toml is not valid TOML: {exc}") from exc
    return grants_in(tree.get("capabilities", {}), "Pie.toml: [capabilities]")


def grants_in(table: object, where: str) -> Grants:
    """Grants from a table of a TOML file. Raises BadField, which says `where`."""
    known = Grants.__struct_fields__
    if isinstance(table, dict):
        for key in cast("dict[str, Any]", table):
            if key not in known:
                raise BadField(f"{where} has no {key!r}; known: {', '.join(known)}")
    try:
        grants = msgspec.convert(table, Grants)
        checked(grants)
    except (msgspec.ValidationError, BadField) as exc:
        raise BadField(f"{where}: {exc}") from exc
    return grants


def checked(grants: Grants) -> Grants:
    """The same grants. Raises BadField when an entry is malformed, or there are too many."""
    if max(len(grants.http), len(grants.mcp), len(grants.filesystem)) > MAX_ENTRIES:
        raise BadField(f"a capability has at most {MAX_ENTRIES} entries")
    for pattern in grants.http:
        HostPattern.parse(pattern)
    for name in grants.mcp:
        if name != "*" and not MCP_NAME.fullmatch(name):
            raise BadField(
                f"{name[:80]!r} is no name of a tool server: expected up to 64 letters, digits, '-', '_' and '.'"
            )
    return grants


def _union(first: list[Any], second: list[Any]) -> list[Any]:
    return list(dict.fromkeys([*first, *second]))
