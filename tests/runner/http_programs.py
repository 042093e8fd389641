"""What programs that speak HTTP are allowed, what they ask, and their end."""

from __future__ import annotations

import base64
from types import SimpleNamespace
from typing import Any

from pie_wire.capabilities import Capabilities, Grants
from runner_world import World


def allowing(*patterns: str, granted: tuple[str, ...] | None = None) -> Capabilities:
    return Capabilities(Grants(http=list(patterns)), Grants(http=list(patterns if granted is None else granted)))


def ask(url: str, **fields: Any) -> Any:
    body = fields.pop("body", None)
    record = {"method": "GET", "headers": [], "timeout": None, "redirects": 0} | fields
    return SimpleNamespace(url=url, body=None if body is None else base64.b64encode(body).decode(), **record)


def finish(world: World, pid: str = "p1", seconds: float = 15.0) -> None:
    world.run_in_real_time(lambda: world.ended(pid), seconds)
