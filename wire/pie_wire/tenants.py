"""What the running programs of one tenant may use together, and where they run: defaults, and a table by tenant.

The table is a TOML file, which all services of a deployment share; what a tenant's table leaves out is the default:

    [acme]
    processes = 200
    contexts = 5000
    own_runner = true
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path

import msgspec

from pie_wire.errors import BadRequest


class TenantLimits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """0 is no limit. Processes are counted by the gateway, the rest by each runner for itself."""

    processes: int | None = None
    contexts: int | None = None
    pages: int | None = None
    tokens: int | None = None
    own_runner: bool | None = None
    """It runs on runners that are dedicated to it, and on no other. The gateway sees to it."""

    def over(self, defaults: TenantLimits) -> TenantLimits:
        """These, and the defaults where there are none."""
        given = {name: value for name in self.__struct_fields__ if (value := getattr(self, name)) is not None}
        return msgspec.structs.replace(defaults, **given)


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
        tenants = msgspec.convert(tree, dict[str, TenantLimits])
    except OSError as exc:
        raise BadRequest(f"cannot read the table of tenants {path}: {exc.strerror}") from exc
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError) as exc:
        raise BadRequest(f"the table of tenants {path} is not one: {exc}") from exc
    negative = [f"[{name}] {field}" for name, limits in tenants.items() for field in _negative(limits)]
    if negative:
        raise BadRequest(f"the table of tenants {path} has negative limits: {', '.join(negative)}")
    return TenantTable(defaults, tenants)


def _negative(limits: TenantLimits) -> list[str]:
    return [name for name, value in msgspec.structs.asdict(limits).items() if value is not None and value < 0]
