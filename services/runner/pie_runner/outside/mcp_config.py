"""The operator's tool servers: the file of setting `mcp`.

[server.calculator]
command = ["python", "-m", "calculator"]
env = {PRECISION = "high"}           # besides PATH, HOME and the like: nothing of the runner's own environment

[server.search]
url = "https://tools.example.com/mcp"
headers = {authorization = "Bearer ..."}
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import msgspec
from pie_wire.capabilities import MCP_NAME
from pie_wire.errors import BadRequest


class ServerConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One server: a command or an address."""

    command: list[str] = []
    env: dict[str, str] = {}
    cwd: str = ""
    url: str = ""
    headers: dict[str, str] = {}


def read_servers(path: str) -> Mapping[str, ServerConfig]:
    """The servers of the file, by name; none for an empty path. Raises BadRequest, which names the entry."""
    if not path:
        return {}
    try:
        tree = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as exc:
        raise BadRequest(f"cannot read the tool servers of {path}: {exc.strerror}") from exc
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise BadRequest(f"{path} is not valid TOML: {exc}") from exc
    tables = tree.get("server", {})
    if set(tree) - {"server"} or not isinstance(tables, dict):
        raise BadRequest(f"{path} consists of tables [server.NAME]")
    return {name: _server(name, table, path) for name, table in cast("dict[str, Any]", tables).items()}


def _server(name: str, table: object, path: str) -> ServerConfig:
    where = f"{path}: [server.{name}]"
    if not MCP_NAME.fullmatch(name):
        raise BadRequest(f"{where}: a name has up to 64 letters, digits, '-', '_' and '.'")
    try:
        config = msgspec.convert(table, ServerConfig)
    except msgspec.ValidationError as exc:
        raise BadRequest(f"{where}: {exc}") from exc
    if bool(config.command) == bool(config.url):
        raise BadRequest(f"{where} needs either a command or a url")
    return config
