"""Clients of Redis: short timeouts, no retries."""

from __future__ import annotations

from typing import Any, cast
from urllib.parse import urlsplit

import redis
from pie_wire.errors import BadRequest
from redis.backoff import NoBackoff
from redis.retry import Retry

from pie_kvstore.store import Redis

SOCKET_TIMEOUT = 1.0


def connect(url: str) -> Redis:
    """A client that connects at its first command. It never repeats one: behind the core's back that could execute
    it twice. Raises BadRequest for a malformed URL."""
    from_url = cast(Any, redis.Redis).from_url
    try:
        client = from_url(
            url,
            socket_timeout=SOCKET_TIMEOUT,
            socket_connect_timeout=SOCKET_TIMEOUT,
            retry=Retry(NoBackoff(), 0),
        )
    except ValueError as exc:
        raise BadRequest(f"REDIS_URL {without_password(url)!r} is malformed: {exc}") from exc
    return cast(Redis, client)


def without_password(url: str) -> str:
    """The URL as logs and status may show it."""
    parts = urlsplit(url)
    if not parts.password:
        return url
    place = f"{parts.username or ''}:***@{parts.hostname or ''}"
    if parts.port:
        place += f":{parts.port}"
    return parts._replace(netloc=place).geturl()
