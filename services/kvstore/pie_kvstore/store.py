"""The Redis client as the core sees it: typed, quick to fail, and out of the way while Redis is down."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import Protocol

import redis
import structlog
from pie_wire.errors import InternalError, StoreUnavailable

from pie_kvstore.schema import Keys

Value = bytes | str | int | float

log = structlog.get_logger("pie.kvstore")


class Pipeline(Protocol):
    """Commands that Redis executes as one transaction at `execute`, whose list has their answers in order."""

    def append(self, name: str, value: bytes) -> object: ...
    def delete(self, *names: str) -> object: ...
    def execute(self) -> list[object]: ...
    def expire(self, name: str, time: int) -> object: ...
    def hdel(self, name: str, *keys: str) -> object: ...
    def hget(self, name: str, key: str) -> object: ...
    def hset(
        self, name: str, key: str | None = ..., value: Value | None = ..., mapping: Mapping[str, Value] | None = ...
    ) -> object: ...
    def persist(self, name: str) -> object: ...
    def rename(self, src: str, dst: str) -> object: ...
    def zadd(self, name: str, mapping: Mapping[str, float]) -> object: ...
    def zrem(self, name: str, *values: str) -> object: ...


class Redis(Protocol):
    """The commands used, as redis-py and fakeredis offer them with `decode_responses=False`."""

    def close(self) -> None: ...
    def delete(self, *names: str) -> int: ...
    def expire(self, name: str, time: int) -> bool: ...
    def get(self, name: str) -> bytes | None: ...
    def getrange(self, key: str, start: int, end: int) -> bytes: ...
    def hdel(self, name: str, *keys: str) -> int: ...
    def hexists(self, name: str, key: str) -> bool: ...
    def hget(self, name: str, key: str) -> bytes | None: ...
    def hgetall(self, name: str) -> dict[bytes, bytes]: ...
    def hkeys(self, name: str) -> list[bytes]: ...
    def hlen(self, name: str) -> int: ...
    def hset(
        self, name: str, key: str | None = ..., value: Value | None = ..., mapping: Mapping[str, Value] | None = ...
    ) -> int: ...
    def hvals(self, name: str) -> list[bytes]: ...
    def incr(self, name: str) -> int: ...
    def info(self, section: str) -> dict[str, object]: ...
    def ping(self) -> bool: ...
    def pipeline(self, transaction: bool = ...) -> Pipeline: ...
    def set(self, name: str, value: Value, *, nx: bool = ...) -> bool | None: ...
    def strlen(self, name: str) -> int: ...
    def ttl(self, name: str) -> int: ...
    def zrangebyscore(
        self, name: str, low: float | str, high: float | str, /, *, start: int, num: int
    ) -> list[bytes]: ...


class Store:
    """Redis behind a circuit breaker: after a failure every call is refused at once for `pause` seconds, so that a
    server that hangs costs one socket timeout now and then instead of one per request."""

    def __init__(self, client: Redis, clock: Callable[[], float], *, prefix: str = "pie", pause: float = 1.0) -> None:
        self.keys = Keys(prefix)
        self.outages = 0
        """Failures so far: whoever sees it grow must write again what it could not."""
        self._client = client
        self._clock = clock
        self._pause = pause
        self._refuse_until = 0.0
        self._reason = ""

    @property
    def available(self) -> bool:
        """Whether the next call will reach for Redis."""
        return self._clock() >= self._refuse_until

    @contextmanager
    def use(self) -> Generator[Redis]:
        """The client, for commands whose failure is the caller's.

        Raises:
            StoreUnavailable: Redis is down, hangs, is loading or refuses writes, or was so a moment ago.
        """
        if not self.available:
            raise StoreUnavailable(self._reason)
        try:
            yield self._client
        except (redis.ConnectionError, redis.TimeoutError, redis.ReadOnlyError, redis.OutOfMemoryError) as exc:
            raise self._trip(exc) from exc
        except redis.ResponseError as exc:
            if str(exc).startswith(("MISCONF", "NOREPLICAS", "CLUSTERDOWN", "OOM")):
                raise self._trip(exc) from exc
            raise InternalError(f"Redis refused a command of kvstore: {exc}") from exc

    def reset(self) -> None:
        """Redis has just been started: try it again at once."""
        self._refuse_until = 0.0

    def _trip(self, exc: redis.RedisError) -> StoreUnavailable:
        self.outages += 1
        self._refuse_until = self._clock() + self._pause
        self._reason = f"Redis does not serve kvstore ({exc}); try again, and see `pie logs kvstore` if it stays so"
        log.warning("redis failed", reason=str(exc), refusing_s=self._pause)
        return StoreUnavailable(self._reason)
