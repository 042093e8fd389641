"""A program's source folder: its manifest, its language and where it begins."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast, get_args

from pie_wire.errors import BadField, NotFound

Language = Literal["python", "typescript", "rust"]
LANGUAGES: tuple[Language, ...] = get_args(Language)
MANIFEST = "Pie.toml"
SDK_FOLDER = ".pie"
"""Where the bakery puts what compilers and editors need of the SDK: no part of the source."""

_MARKS: tuple[tuple[str, Language], ...] = (
    ("Cargo.toml", "rust"),
    ("package.json", "typescript"),
    ("src/main.ts", "typescript"),
    ("main.ts", "typescript"),
    ("main.py", "python"),
)
_ENTRIES: dict[Language, tuple[str, ...]] = {
    "python": ("main.py", "src/main.py"),
    "typescript": ("src/main.ts", "main.ts", "src/main.js", "main.js"),
    "rust": ("Cargo.toml",),
}


@dataclass(frozen=True)
class Project:
    """What is to be built. `entry` is the file that it begins with, a crate's Cargo.toml for Rust."""

    folder: Path
    name: str
    language: Language
    entry: Path

    @property
    def component(self) -> Path:
        """Where the built component goes unless told otherwise."""
        return self.folder / f"{self.name}.wasm"

    @property
    def sdk(self) -> Path:
        """The folder of the SDK's copy."""
        return self.folder / SDK_FOLDER


def read_project(folder: Path) -> Project:
    """The project in a folder. `[package] language` in Pie.toml decides the language; without it, what files there are.

    Raises BadField, NotFound.
    """
    if not folder.is_dir():
        raise NotFound(f"{folder} is no folder; build the folder with the program's sources.")
    package = _package(folder)
    name = package.get("name", folder.resolve().name)
    language = package.get("language") or _guess(folder)
    if language not in LANGUAGES:
        raise BadField(f"{MANIFEST}: package.language is {language!r}, expected one of {', '.join(LANGUAGES)}")
    entries = _ENTRIES[language]
    for each in entries:
        if (folder / each).is_file():
            return Project(folder, name, language, folder / each)
    raise NotFound(f"{folder} has no {' or '.join(entries)}, where a {language} program begins.")


def _package(folder: Path) -> dict[str, str]:
    """The texts of the manifest's [package]; empty without a manifest."""
    path = folder / MANIFEST
    if not path.is_file():
        return {}
    try:
        package = tomllib.loads(path.read_text(encoding="utf-8")).get("package")
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise BadField(f"{path} is not valid TOML: {exc}") from exc
    if not isinstance(package, dict):
        raise BadField(f"{path} has no [package] table with name and version")
    return {key: value for key, value in cast(dict[str, object], package).items() if isinstance(value, str)}


def _guess(folder: Path) -> Language:
    for mark, language in _MARKS:
        if (folder / mark).is_file():
            return language
    raise NotFound(f"{folder} has none of {', '.join(mark for mark, _ in _MARKS)}: there is nothing to build.")
