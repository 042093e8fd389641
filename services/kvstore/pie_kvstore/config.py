"""How kvstore is configured: section `kvstore`, environment PIE_KVSTORE_*, and flags."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pie_wire import config
from pie_wire.config import option, pie_home


@dataclass(frozen=True)
class Config:
    """Empty paths mean their place in the Pie home."""

    endpoint: str = option("", "Where services dial kvstore. Empty: run/kvstore.sock in the Pie home.")
    name: str = option("kvstore", "Name of this kvstore in the member list and the logs.")
    redis_url: str = option("", "Redis to use; also read from REDIS_URL. Empty: an embedded one.")
    data: str = option("", "Folder of the embedded Redis. Empty: kvstore in the Pie home.")
    socket: str = option("", "Unix socket of the embedded Redis. Empty: run/redis.sock in the Pie home.")
    prefix: str = option("pie", "First part of every key, so that several deployments can share one Redis.")
    snapshot_bytes: int = option(1 << 30, "Data that the snapshots of one user may need beside their tokens.")
    topic_messages: int = option(10_000, "Messages that the queue of one topic holds, dead ones counted.")
    topic_bytes: int = option(64 << 20, "Bytes of the messages of one topic.")
    user_topics: int = option(1000, "Topics of one user that hold messages.")
    log_level: Literal["debug", "info", "warning", "error"] = option("info", "Least severe log level shown.")
    log_format: Literal["auto", "text", "json"] = option("auto", "Log lines for people, for programs, or by terminal.")

    @property
    def listen(self) -> str:
        return self.endpoint or f"ipc://{pie_home() / 'run' / 'kvstore.sock'}"

    @property
    def data_folder(self) -> Path:
        return Path(self.data).expanduser().absolute() if self.data else pie_home() / "kvstore"

    @property
    def redis_socket(self) -> Path:
        return Path(self.socket).expanduser().absolute() if self.socket else pie_home() / "run" / "redis.sock"


def load(flags: Mapping[str, object] | None = None, environ: Mapping[str, str] | None = None) -> Config:
    """File, environment and flags; REDIS_URL counts as the lowest of them. Raises BadRequest."""
    environ = os.environ if environ is None else environ
    given = dict(flags or {})
    found = config.load(Config, "kvstore", flags=given, environ=environ)
    if not found.redis_url and environ.get("REDIS_URL"):
        given["redis_url"] = environ["REDIS_URL"]
        found = config.load(Config, "kvstore", flags=given, environ=environ)
    return found
