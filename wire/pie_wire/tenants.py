"""What the programs of one tenant may use, and where they run: defaults, and a table by tenant.

The table is a TOML file, which all services of a deployment share; what a tenant's table leaves out is the default:

    [acme]                       # its running programs together
    processes = 200
    contexts = 5000
    own_runner = true

    [acme.process]               # each of them
    memory = 1073741824
    cpu_seconds = 60
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

import msgspec

from pie_wire.errors import BadRequest

S = TypeVar("S", bound=msgspec.Struct)

MOST = 2**63 - 1


class OwnLimits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Settings of runners for one process, which hold for a tenant's instead of theirs. What 0 means is as there."""

    memory: int | None = None
    cpu_seconds: float | None = None
    wall_seconds: float | None = None
    tokens: int | None = None
    contexts: int | None = None
    pages: int | None = None
    children: int | None = None
    messages: int | None = None
    message_bytes: int | None = None
    output_bytes: int | None = None
    output_rate: int | None = None
    logits_bytes: int | None = None
    http_requests: int | None = None
    http_total: int | None = None
    http_seconds: float | None = None
    http_bytes: int | None = None
    file_bytes: int | None = None
    scratch_bytes: int | None = None
    data_bytes: int | None = None
    file_entries: int | None = None
    data_programs: int | None = None
    mcp_requests: int | None = None
    mcp_seconds: float | None = None
    mcp_bytes: int | None = None

    def given(self) -> dict[str, Any]:
        """Those that there are, by name."""
        return _given(self)


class TenantLimits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """0 is no limit. Processes are counted by the gateway, the rest by each runner for itself."""

    processes: int | None = None
    contexts: int | None = None
    pages: int | None = None
    tokens: int | None = None
    own_runner: bool | None = None
    """It runs on runners that are dedicated to it, and on no other. The gateway sees to it."""
    process: OwnLimits = OwnLimits()
    """Of each process. Runners see to it."""

    def over(self, defaults: TenantLimits) -> TenantLimits:
        """These, and the defaults where there are none."""
        return msgspec.structs.replace(defaults, **_given(self))


class TenantTable:
    """Limits by tenant."""

    def __init__(self, defaults: TenantLimits, tenants: Mapping[str, TenantLimits] | None = None) -> None:
        self._defaults = defaults
        self._tenants = {name: limits.over(defaults) for name, limits in (tenants or {}).items()}

    def of(self, tenant: str) -> TenantLimits:
        """Those of one tenant."""
        return self._tenants.get(tenant, self._defaults)


def read_tenants(path: str, defaults: TenantLimits) -> TenantTable:
    """The table in a file; empty: defaults for all. Raises BadRequest with the file and what is wrong in it."""
    if not path:
        return TenantTable(defaults)
    try:
        tree = tomllib.loads(Path(path).expanduser().read_text(encoding="utf-8"))
    except OSError as exc:
        raise BadRequest(f"cannot read the table of tenants {path}: {exc.strerror}") from exc
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise BadRequest(f"the table of tenants {path} is not one: {exc}") from exc
    return TenantTable(defaults, {name: _read(path, name, table) for name, table in tree.items()})


def _given(limits: msgspec.Struct) -> dict[str, Any]:
    return {name: value for name, value in msgspec.structs.asdict(limits).items() if value is not None}


def _read(path: str, name: str, table: object) -> TenantLimits:
    """One tenant's."""
    if not isinstance(table, dict):
        raise BadRequest(f"the table of tenants {path}: {name} is a value, expected a table [{name}]")
    rest = dict(cast("dict[str, object]", table))
    process = _converted(path, f"[{name}.process]", rest.pop("process", {}), OwnLimits)
    return msgspec.structs.replace(_converted(path, f"[{name}]", rest, TenantLimits), process=process)


def _converted(path: str, where: str, table: object, kind: type[S]) -> S:
    """The table at `where`, of which no number is negative. Raises BadRequest."""
    try:
        limits = msgspec.convert(table, kind)
    except msgspec.ValidationError as exc:
        known = ", ".join(sorted(kind.__struct_fields__))
        raise BadRequest(f"the table of tenants {path}: {where}: {exc}; known: {known}") from exc
    for key, value in msgspec.structs.asdict(limits).items():
        if isinstance(value, int | float) and not 0 <= value <= MOST:
            raise BadRequest(f"the table of tenants {path}: {where} {key} is {value}, expected 0 to {MOST}")
    return limits
