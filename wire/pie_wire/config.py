"""One way to configure a service: a frozen dataclass, read from TOML, environment and flags of the same names.

A field `kv_memory` of section `engine` is `[engine] kv_memory` in the file, `PIE_ENGINE_KV_MEMORY` in the environment
and `--kv-memory` as a flag; later ones win in that order. Its help is `field(metadata={"help": ...})`.
"""

from __future__ import annotations

import dataclasses
import os
import tomllib
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec

from pie_wire.errors import BadRequest

C = TypeVar("C")
F = TypeVar("F", bound=Callable[..., Any])


def pie_home() -> Path:
    """`PIE_HOME`, or `pie` in the user's data folder (XDG)."""
    if home := os.environ.get("PIE_HOME"):
        return Path(home).expanduser().absolute()
    data = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(data).expanduser() / "pie"


def option(default: Any, text: str) -> Any:
    """A config field with its help text."""
    return dataclasses.field(default=default, metadata={"help": text})


def load(
    cls: type[C],
    section: str,
    *,
    file: str | Path | None = None,
    flags: Mapping[str, object] | None = None,
    environ: Mapping[str, str] | None = None,
) -> C:
    """The configuration of one service. `flags` that are None count as not given; `file` defaults to PIE_CONFIG.

    Raises:
        BadRequest: an unreadable file, an unknown key or a bad value, with its source and what is expected.
    """
    environ = os.environ if environ is None else environ
    known = {f.name: f for f in dataclasses.fields(typing.cast(Any, cls))}
    hints = typing.get_type_hints(cls)
    values: dict[str, object] = {}
    sources: dict[str, str] = {}
    path = file or environ.get("PIE_CONFIG")
    if path:
        for key, value in _section(Path(path), section).items():
            if key not in known:
                raise BadRequest(f"{path}: [{section}] has no key {key!r}; known: {', '.join(sorted(known))}")
            values[key], sources[key] = value, f"{path} [{section}] {key}"
    for key in known:
        name = f"PIE_{section}_{key}".upper()
        if name in environ:
            values[key], sources[key] = environ[name], name
    for key, value in (flags or {}).items():
        if value is not None and key in known:
            values[key], sources[key] = value, f"--{key.replace('_', '-')}"
    for key, value in values.items():
        try:
            values[key] = msgspec.convert(value, hints[key], strict=False)
        except msgspec.ValidationError as exc:
            raise BadRequest(f"{sources[key]}: {exc}") from exc
    return cls(**values)


def options(cls: type[Any]) -> Callable[[F], F]:
    """Click options for every field of a config class; unset ones arrive as None."""

    def wrap(command: F) -> F:
        hints = typing.get_type_hints(cls)
        for field in reversed(dataclasses.fields(cls)):
            kind = _plain(hints[field.name])
            flag = f"--{field.name.replace('_', '-')}"
            shown = f"{field.metadata.get('help', '')} [default: {field.default}]"
            if kind is bool:
                command = click.option(f"{flag}/--no-{flag[2:]}", field.name, default=None, help=shown)(command)
            else:
                click_type = kind if kind in (int, float) else str
                command = click.option(flag, field.name, type=click_type, default=None, help=shown)(command)
        return command

    return wrap


def _plain(hint: Any) -> Any:
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        return next(a for a in typing.get_args(hint) if a is not type(None))
    return hint


def _section(path: Path, name: str) -> dict[str, object]:
    found = _read(path).get(name, {})
    if not isinstance(found, dict):
        raise BadRequest(f"{path}: {name} is a value, expected a table [{name}]")
    return typing.cast("dict[str, object]", found)


def _read(path: Path) -> dict[str, object]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise BadRequest(f"cannot read configuration {path}: {exc.strerror}") from exc
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise BadRequest(f"{path} is not valid TOML: {exc}") from exc
