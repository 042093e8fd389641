"""Pie.toml: the identity of a program, and what it asks for.

[package]
name = "text-completion"
version = "0.1.0"

[capabilities]           # what it asks for, see pie_wire.capabilities
http = ["api.example.com"]
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from typing import cast

from pie_wire.capabilities import Grants, asked_by
from pie_wire.errors import BadField, TooLarge

MAX_MANIFEST_BYTES = 64 << 10

NAME = re.compile(r"[a-z0-9](?:[a-z0-9_-]{0,62}[a-z0-9])?")
SEMVER = re.compile(
    r"(?:0|[1-9]\d*)\.(?:0|[1-9]\d*)\.(?:0|[1-9]\d*)"
    r"(?:-(?:0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*)(?:\.(?:0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*))*)?"
    r"(?:\+[0-9a-zA-Z-]+(?:\.[0-9a-zA-Z-]+)*)?"
)
"""Semantic versioning 2.0.0, https://semver.org."""


@dataclass(frozen=True)
class Manifest:
    name: str
    version: str
    asks: Grants


def parse(text: str) -> Manifest:
    """Read and check a manifest.

    Raises:
        BadField: not TOML, name or version missing or malformed, or an unknown capability. TooLarge.
    """
    if len(text.encode()) > MAX_MANIFEST_BYTES:
        raise TooLarge(f"Pie.toml is larger than {MAX_MANIFEST_BYTES} bytes")
    try:
        package = tomllib.loads(text).get("package")
    except (tomllib.TOMLDecodeError, RecursionError) as exc:
        raise BadField(f"Pie.toml is not valid TOML: {exc}") from exc
    if not isinstance(package, dict):
        raise BadField("Pie.toml has no [package] table with name and version")
    fields = cast(dict[str, object], package)
    name, version = fields.get("name"), fields.get("version")
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise BadField(
            f"Pie.toml: package.name is {name!r}, expected up to 64 lower-case letters, digits, '-' and '_', "
            "beginning and ending with a letter or digit"
        )
    if not isinstance(version, str) or not SEMVER.fullmatch(version):
        raise BadField(f"Pie.toml: package.version is {version!r}, expected a semantic version such as 0.1.0")
    return Manifest(name, version, asked_by(text))
