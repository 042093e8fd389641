"""Which processes a stack consists of, and how each is told about the others."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pie_cli.paths import StackPaths

Kind = Literal["kvstore", "engine", "runner", "gateway"]


@dataclass(frozen=True)
class ServicePlan:
    """One process: `python -m pie_KIND`, configured by environment variables of that service's config section."""

    kind: Kind
    name: str
    settings: dict[str, str]

    @property
    def command(self) -> list[str]:
        return [sys.executable, "-m", f"pie_{self.kind}"]

    @property
    def environment(self) -> dict[str, str]:
        """Config fields as the service reads them: PIE_KIND_FIELD."""
        fields = {"name": self.name, **self.settings}
        return {f"PIE_{self.kind}_{field}".upper(): value for field, value in fields.items()}


@dataclass(frozen=True)
class StackPlan:
    """A whole stack on one host."""

    model: str
    """As the user wrote it."""
    services: tuple[ServicePlan, ...]


def plan_stack(
    paths: StackPaths,
    *,
    model: str,
    model_folder: str,
    runners: int,
    http_port: int | None,
    runners_for: Sequence[str] = (),
) -> StackPlan:
    """One kvstore, engine and gateway, `runners` runners for all and one for each tenant in `runners_for`, over Unix
    sockets.

    `model_folder` is a path, or `scripted:FILE`. `http_port` None leaves the gateway's own default in force.
    """
    kvstore = paths.endpoint("kvstore")
    gateway_runners = paths.endpoint("gateway-runners")
    gateway = {
        "endpoint": paths.endpoint("gateway"),
        "runners_endpoint": gateway_runners,
        "kvstore_endpoint": kvstore,
        "data": str(paths.home / "gateway"),
    }
    if http_port is not None:
        gateway["http_port"] = str(http_port)
    services = [
        ServicePlan(
            "kvstore",
            "kvstore",
            {
                "endpoint": kvstore,
                "data": str(paths.home / "kvstore"),
                "socket": str(paths.sockets / "redis.sock"),
            },
        ),
        ServicePlan("gateway", "gateway", gateway),
        ServicePlan(
            "engine",
            "engine-0",
            {"endpoint": paths.endpoint("engine-0"), "kvstore_endpoint": kvstore, "model": model_folder},
        ),
    ]
    to_all = {"gateway_endpoint": gateway_runners, "kvstore_endpoint": kvstore}
    settings = [to_all] * runners + [{**to_all, "dedicated_to": tenant} for tenant in runners_for]
    services += [ServicePlan("runner", f"runner-{number}", given) for number, given in enumerate(settings)]
    return StackPlan(model, tuple(services))
