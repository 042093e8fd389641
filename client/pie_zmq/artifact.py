"""Programs on disk or in memory: their bytes, what kind they are, and their manifest."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from pie_wire.errors import BadRequest, NotFound, TooLarge
from pie_wire.messages.common import MAX_ARTIFACT_BYTES, ProgramKind

MANIFEST = "Pie.toml"
SOURCE = "main.py"
WASM_MAGIC = b"\0asm"


@dataclass(frozen=True)
class Artifact:
    data: bytes
    kind: ProgramKind
    filename: str = "inferlet.py"
    manifest: str = ""

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()


def of_bytes(data: bytes, *, filename: str = "inferlet.py", manifest: str = "") -> Artifact:
    """A program in memory: a Wasm component, or Python source.

    Raises:
        BadRequest: empty. TooLarge.
    """
    if not data:
        raise BadRequest(f"{filename} is empty")
    if len(data) > MAX_ARTIFACT_BYTES:
        raise TooLarge(f"{filename} has {len(data)} bytes, more than {MAX_ARTIFACT_BYTES}")
    return Artifact(data, "component" if data.startswith(WASM_MAGIC) else "python", filename, manifest)


def of_path(path: Path) -> Artifact:
    """A program file with the manifest beside it, if there is one; or a folder with Pie.toml and either main.py or
    one .wasm file.

    Raises:
        NotFound, BadRequest, TooLarge
    """
    file = _program_in(path) if path.is_dir() else path
    try:
        if file.stat().st_size > MAX_ARTIFACT_BYTES:
            raise TooLarge(f"{file} has more than {MAX_ARTIFACT_BYTES} bytes")
        data = file.read_bytes()
        beside = file.parent / MANIFEST
        manifest = beside.read_text() if beside.is_file() else ""
    except FileNotFoundError as exc:
        raise NotFound(f"no file {file}") from exc
    except (OSError, UnicodeDecodeError) as exc:
        raise BadRequest(f"cannot read {file}: {exc}") from exc
    return of_bytes(data, filename=file.name, manifest=manifest)


def _program_in(folder: Path) -> Path:
    source = folder / SOURCE
    if source.is_file():
        return source
    components = sorted(folder.glob("*.wasm"))
    if len(components) != 1:
        raise NotFound(f"{folder} has neither {SOURCE} nor exactly one .wasm file: name the file itself")
    return components[0]
