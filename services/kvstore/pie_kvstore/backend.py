"""Which Redis kvstore uses: REDIS_URL as given, else one of its own."""

from __future__ import annotations

import time

import redis
import structlog
from pie_wire.errors import StoreUnavailable

from pie_kvstore.config import Config
from pie_kvstore.connection import connect, without_password
from pie_kvstore.embedded import EmbeddedRedis

CONNECT_PATIENCE = 5.0
"""Seconds that an external Redis may take to answer when kvstore starts."""

log = structlog.get_logger("pie.kvstore")


class Backend:
    """A connected Redis and, if it is embedded, its process."""

    def __init__(self, config: Config) -> None:
        """Start or reach Redis.

        Raises:
            BadRequest: the URL is malformed. StoreUnavailable: it does not answer; another is never used instead.
        """
        self.embedded: EmbeddedRedis | None = None
        if config.redis_url:
            self.where = without_password(config.redis_url)
            self.client = connect(config.redis_url)
            self._reach()
        else:
            self.embedded = EmbeddedRedis(config.data_folder, config.redis_socket)
            self.embedded.start()
            self.where = "embedded"
            self.client = connect(self.embedded.url)

    def describe(self) -> str:
        """Name, version and place: `valkey 9.1.2, embedded`."""
        server = self.client.info("server")
        name = server.get("server_name", "redis")
        version = server.get("valkey_version") or server.get("redis_version", "?")
        return f"{name} {version}, {self.where}"

    def warn_if_forgetful(self) -> None:
        """Log what an external Redis without an append-only file means."""
        persistence = self.client.info("persistence")
        if not persistence.get("aof_enabled"):
            log.warning(
                "this Redis has no append-only file: what is acknowledged may be lost when it dies; "
                "set `appendonly yes` there",
                redis=self.where,
            )

    def close(self) -> None:
        self.client.close()
        if self.embedded is not None:
            self.embedded.stop()

    def _reach(self) -> None:
        deadline = time.monotonic() + CONNECT_PATIENCE
        while True:
            try:
                self.client.ping()
            except redis.AuthenticationError as exc:
                raise StoreUnavailable(f"REDIS_URL {self.where} refuses the password: {exc}") from exc
            except redis.RedisError as exc:
                if time.monotonic() > deadline:
                    raise StoreUnavailable(
                        f"REDIS_URL {self.where} does not answer ({exc}): start that Redis, or unset REDIS_URL to use "
                        "the embedded one"
                    ) from exc
                time.sleep(0.2)
            else:
                return
