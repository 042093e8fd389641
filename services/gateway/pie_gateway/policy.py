"""What the operator grants to which programs: the file of setting `policy`.

[[grant]]                                # for everyone
http = ["api.example.com"]

[[grant]]
programs = ["weather", "sha256:9f86*"]   # NAME, NAME@VERSION or sha256:DIGEST of an upload; `*` and `?` as for files
tenants = ["acme"]
users = ["ada"]
filesystem = ["scratch", "data"]
children = true

Everything that fits a program counts together. A program still has what it asks for only.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, cast

from pie_wire.capabilities import Grants, grants_in
from pie_wire.errors import BadRequest, Forbidden
from pie_wire.hub import Scope
from pie_wire.messages.common import ProgramRef

_WHOM = ("programs", "tenants", "users")


@dataclass(frozen=True)
class Rule:
    """One `[[grant]]`; an empty list of whom means all."""

    grants: Grants
    programs: tuple[str, ...] = ()
    tenants: tuple[str, ...] = ()
    users: tuple[str, ...] = ()

    def fits(self, ref: ProgramRef, scope: Scope) -> bool:
        # The name of an upload is its launcher's choice, so that only its bytes identify it.
        titles = [ref.name, f"{ref.name}@{ref.version}"] if ref.version else []
        titles.append(f"sha256:{ref.sha256}")
        return (
            (not self.programs or any(fnmatchcase(title, glob) for title in titles for glob in self.programs))
            and (not self.tenants or scope.tenant in self.tenants)
            and (not self.users or scope.user in self.users)
        )


@dataclass(frozen=True)
class Policy:
    """All rules, and whether users may grant besides. The default grants nothing."""

    rules: tuple[Rule, ...] = ()
    users_grant: bool = False

    @classmethod
    def load(cls, path: str, *, users_grant: bool) -> Policy:
        """Read the file; an empty path has no rules. Raises BadRequest, which names the file and the entry."""
        if not path:
            return cls((), users_grant)
        try:
            tree = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as exc:
            raise BadRequest(f"cannot read the policy {path}: {exc.strerror}") from exc
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
            raise BadRequest(f"the policy {path} is not valid TOML: {exc}") from exc
        if unknown := set(tree) - {"grant"}:
            raise BadRequest(f"{path} has no {min(unknown)!r}; it consists of [[grant]] tables")
        entries = tree.get("grant", [])
        if not isinstance(entries, list):
            raise BadRequest(f"{path}: `grant` is a value, expected tables [[grant]]")
        rules = [_rule(entry, f"{path}: [[grant]] number {i}") for i, entry in enumerate(cast("list[Any]", entries), 1)]
        return cls(tuple(rules), users_grant)

    def check_allowed(self, allow: Grants) -> None:
        """Raise Forbidden if a user grants this, and users may not."""
        if allow and not self.users_grant:
            raise Forbidden(
                f"this launch grants {', '.join(allow.words())}, but users may not grant here: ask the operator for a "
                '[[grant]] in the gateway\'s policy file (setting `policy`), or for `user_grants = "on"`'
            )

    def granted(self, ref: ProgramRef, scope: Scope) -> Grants:
        """What a program of this user may do if it asks for it."""
        found = Grants()
        for rule in self.rules:
            if rule.fits(ref, scope):
                found |= rule.grants
        return found


def _rule(entry: object, where: str) -> Rule:
    if not isinstance(entry, dict):
        raise BadRequest(f"{where} is no table")
    table = cast("dict[str, object]", entry)
    whom = {key: _strings(table[key], f"{where}: {key}") for key in _WHOM if key in table}
    return Rule(grants_in({key: value for key, value in table.items() if key not in _WHOM}, where), **whom)


def _strings(value: object, where: str) -> tuple[str, ...]:
    items = cast("list[object]", value) if isinstance(value, list) else []
    strings = tuple(item for item in items if isinstance(item, str))
    if not strings or len(strings) != len(items):
        raise BadRequest(f"{where} must be a list of strings, and not an empty one: leave it out for all")
    return strings
