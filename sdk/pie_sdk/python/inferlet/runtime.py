"""Where the program runs."""

from __future__ import annotations

import json
from typing import Any

from wit_world.imports import runtime as raw


def version() -> str:
    """Version of Pie."""
    return raw.version()


def instance_id() -> str:
    """The id of this process."""
    return raw.instance_id()


def username() -> str:
    """Who launched it."""
    return raw.user()


def tenant() -> str:
    return raw.tenant()


def program() -> str:
    """`name@version` of this program."""
    return raw.program()


def arguments() -> Any:
    """The launch input."""
    return json.loads(raw.arguments() or "null")


def models() -> list[str]:
    """Names of the loaded models, the default first."""
    return raw.models()
