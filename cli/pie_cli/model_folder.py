"""A model folder: config, safetensors, tokenizer, chat template, and `pie-model.json`, which tells its origin."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import msgspec
from pie_wire.errors import BadRequest

INFO_FILE = "pie-model.json"
FORMAT = 1
PATTERNS = ("*.safetensors", "*.json", "*.txt", "*.model", "*.jinja")
"""The files of a checkpoint that Pie reads; everything else in a repository is left out."""


class FileInfo(msgspec.Struct, frozen=True):
    sha256: str
    size: int


class ModelInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What `pie-model.json` holds. `format` changes when a folder of an older Pie can no longer be read."""

    name: str
    source: str
    revision: str = ""
    quantisation: str = ""
    created: str
    files: dict[str, FileInfo]
    format: int = FORMAT

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(file.size for file in self.files.values())


def check_folder(folder: Path) -> None:
    """Raise BadRequest, naming the first thing that is missing, unless the engine and the runner can load `folder`."""
    if not folder.is_dir():
        raise BadRequest(f"{folder} is not a folder; give the folder that holds a model's config.json")
    config = _read_json(folder / "config.json")
    if not config.get("architectures"):
        raise BadRequest(
            f"{folder / 'config.json'} names no architecture: this is not a causal language model's folder"
        )
    weights = {path.name for path in folder.glob("*.safetensors") if path.is_file()}
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        parts = _read_json(index).get("weight_map")
        named = set(cast("Mapping[str, str]", parts).values()) if isinstance(parts, dict) else set[str]()
        if missing := sorted(named - weights):
            raise BadRequest(f"{folder} lacks {', '.join(missing)}; pull or copy the model again")
    if not weights:
        raise BadRequest(
            f"{folder} has no *.safetensors file; Pie loads safetensors only (a GGUF must be converted first)"
        )
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        raise BadRequest(f"{folder} has no tokenizer (tokenizer.json); save the model's tokenizer into it")


def has_chat_template(folder: Path) -> bool:
    if (folder / "chat_template.jinja").is_file():
        return True
    settings = folder / "tokenizer_config.json"
    return settings.is_file() and "chat_template" in _read_json(settings)


def describe_files(folder: Path) -> dict[str, FileInfo]:
    """Size and sha256 of each model file in `folder`, by name."""
    found: dict[str, FileInfo] = {}
    for path in sorted(path for pattern in PATTERNS for path in folder.glob(pattern)):
        if path.name != INFO_FILE:
            with path.open("rb") as file:
                found[path.name] = FileInfo(hashlib.file_digest(file, "sha256").hexdigest(), path.stat().st_size)
    return found


def read_info(folder: Path) -> ModelInfo:
    """Raise BadRequest for a folder that no `pie model pull` of a compatible version has written."""
    path = folder / INFO_FILE
    try:
        info = msgspec.json.decode(path.read_bytes(), type=ModelInfo)
    except (OSError, msgspec.DecodeError) as error:
        raise BadRequest(f"{path} cannot be read ({error}); run `pie model rm {folder.name}` and pull again") from error
    if info.format != FORMAT:
        raise BadRequest(
            f"{folder} has format {info.format}, not {FORMAT}; run `pie model rm {folder.name}` and pull again"
        )
    return info


def write_info(folder: Path, info: ModelInfo) -> None:
    (folder / INFO_FILE).write_bytes(msgspec.json.format(msgspec.json.encode(info), indent=2) + b"\n")


def _read_json(path: Path) -> dict[str, object]:
    try:
        data: object = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BadRequest(f"{path} does not exist; give the folder that holds a model's {path.name}") from error
    except (OSError, ValueError) as error:
        raise BadRequest(f"{path} cannot be read: {error}") from error
    if not isinstance(data, dict):
        raise BadRequest(f"{path} must hold a JSON object")
    return cast("dict[str, object]", data)
