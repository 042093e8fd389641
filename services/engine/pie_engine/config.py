"""The engine's configuration: section `engine`, environment `PIE_ENGINE_*`, flags of the same names."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pie_wire.config import option, pie_home
from pie_wire.errors import BadField, NotFound

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "ki": 2**10, "mi": 2**20, "gi": 2**30}
_SCRIPTED = "scripted:"
_AUTO_SHARE = 0.25
_AUTO_MOST = 4 * 2**30


@dataclass(frozen=True)
class EngineConfig:
    """All of an engine's settings."""

    name: str = option("engine-0", "member name")
    endpoint: str = option(f"ipc://{pie_home()}/run/engine-0.sock", "where runners dial")
    advertise: str = option("", "address given to runners when endpoint is none, as tcp://0.0.0.0 is; empty: endpoint")
    kvstore_endpoint: str = option(f"ipc://{pie_home()}/run/kvstore.sock", "where kvstore listens")
    model: str = option("", "model folder, or scripted:FILE")
    draft_model: str = option("", "folder of a small model with the same tokenizer that guesses for runs; empty: none")
    device: Literal["cpu", "cuda"] = option("cpu", "where the model runs; cuda has not been verified yet")
    dtype: Literal["bfloat16", "float32"] = option(
        "bfloat16", "number format of weights and KV; float32 is the reference mode"
    )
    kv_memory: str = option(
        "auto", "memory for KV pages, as 2GiB or 500MB; auto: a quarter of what is free, 4GiB at most"
    )
    adapter_memory: str = option("1GiB", "memory for loaded adapters, as 1GiB or 500MB")
    adapters: str = option(
        "", "file that names the loaded adapters, for the next start; empty: engine/NAME.json of the Pie home"
    )
    swap_memory: str = option(
        "auto", "host memory for pages of contexts that had to leave the pool; auto: as much as kv_memory; 0: none"
    )
    page_size: int = option(16, "tokens in a page")
    threads: int = option(0, "threads of a pass; 0: all cores, one for few rows while others want the cores")
    step_ms: float = option(
        100.0, "estimated work in one step, so that cancels and short requests need not wait longer"
    )
    max_rows: int = option(2048, "tokens in one step, whatever the estimate")
    max_contexts: int = option(65_536, "contexts that one runner may have open")
    max_account_contexts: int = option(65_536, "contexts that one account may have open, on all runners together")
    log_level: Literal["debug", "info", "warning", "error"] = option("info", "least severe log level shown")
    log_format: Literal["auto", "text", "json"] = option("auto", "log lines for people, for programs, or by terminal")

    def check(self) -> None:
        """Raise BadField for a value out of range, NotFound for a missing model."""
        if not self.model:
            raise BadField("no model given: set --model (or PIE_ENGINE_MODEL) to a model folder or scripted:FILE")
        if self.script is not None:
            if not self.script.is_file():
                raise NotFound(f"there is no script {self.script}")
        elif not (Path(self.model).expanduser() / "config.json").is_file():
            raise NotFound(f"{self.model} has no config.json: give a model folder; `pie model pull smollm2` gets one")
        if self.draft_model and not (Path(self.draft_model).expanduser() / "config.json").is_file():
            raise NotFound(f"{self.draft_model} has no config.json: give a model folder, or no draft model")
        if not 1 <= self.page_size <= 256:
            raise BadField(f"page_size must be between 1 and 256, not {self.page_size}")
        if self.threads < 0 or self.max_rows < 1 or not 1.0 <= self.step_ms <= 60_000.0:
            raise BadField("threads must be 0 or more, max_rows 1 or more, step_ms between 1 and 60000")
        if self.max_contexts < 1 or self.max_account_contexts < 1:
            raise BadField("max_contexts and max_account_contexts must be at least 1")
        self.kv_bytes()
        self.swap_pages(1, 0)
        parse_bytes(self.adapter_memory)

    @property
    def script(self) -> Path | None:
        """The script's file when the model is a scripted one."""
        return Path(self.model.removeprefix(_SCRIPTED)).expanduser() if self.model.startswith(_SCRIPTED) else None

    @property
    def adapters_file(self) -> Path:
        """Where loaded adapters are remembered."""
        return Path(self.adapters).expanduser() if self.adapters else pie_home() / "engine" / f"{self.name}.json"

    def kv_bytes(self) -> int:
        """Memory for KV pages."""
        if self.kv_memory == "auto":
            free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
            return min(_AUTO_MOST, int(free * _AUTO_SHARE))
        return parse_bytes(self.kv_memory)

    def swap_pages(self, page_bytes: int, pages: int) -> int:
        """Pages of the swap tier beside a pool of `pages`."""
        return pages if self.swap_memory == "auto" else parse_bytes(self.swap_memory) // page_bytes


def parse_bytes(text: str) -> int:
    """`2GiB`, `1.5 GB`, `500MB`, `65536`. Raises BadField for anything else."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmg]i?)?b?\s*", text.lower())
    if found is None:
        raise BadField(f"{text!r} is no amount of memory: write it as 2GiB, 500MB or a number of bytes")
    return int(float(found[1]) * _UNITS[found[2] or ""])
