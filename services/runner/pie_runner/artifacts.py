"""Program bytes by digest: from the cache, else from kvstore in chunks."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import partial
from typing import Protocol

from pie_wire.errors import HashMismatch, PieError, StoreUnavailable, TooLarge, Unavailable
from pie_wire.hub import Answer, Hub
from pie_wire.membership import KVSTORE
from pie_wire.messages.common import MAX_ARTIFACT_BYTES
from pie_wire.messages.kvstore import ArtifactChunk, GetArtifact

CHUNK_TIMEOUT = 5.0

Then = Callable[[PieError | None], None]


class ArtifactCache(Protocol):
    """Verified artifacts. May forget any of them at any time except while `read` runs."""

    def has(self, sha256: str) -> bool: ...

    def read(self, sha256: str) -> bytes: ...

    def write(self, sha256: str, data: bytes) -> None: ...


class _Fetch:
    def __init__(self) -> None:
        self.data = bytearray()
        self.digest = hashlib.sha256()
        self.request = 0
        self.waiting: list[Then] = []


class Artifacts:
    """Fetches each artifact once, however many processes wait for it."""

    def __init__(self, hub: Hub, cache: ArtifactCache) -> None:
        self._hub = hub
        self.cache = cache
        self._fetches: dict[str, _Fetch] = {}

    def ensure(self, sha256: str, then: Then) -> Callable[[], None]:
        """Call `then(None)` once the artifact is in the cache (maybe at once), or with the error. Returns how to stop
        waiting; the last one to leave cancels the fetch."""
        if self.cache.has(sha256):
            then(None)
            return lambda: None
        fetch = self._fetches.get(sha256)
        if fetch is None:
            fetch = self._fetches[sha256] = _Fetch()
            fetch.waiting.append(then)
            self._ask(sha256, fetch)
        else:
            fetch.waiting.append(then)
        return partial(self._leave, sha256, then)

    def _leave(self, sha256: str, then: Then) -> None:
        fetch = self._fetches.get(sha256)
        if fetch is not None and then in fetch.waiting:
            fetch.waiting.remove(then)
            if not fetch.waiting:
                del self._fetches[sha256]
                self._hub.cancel(fetch.request)

    def _ask(self, sha256: str, fetch: _Fetch) -> None:
        request = GetArtifact(sha256, len(fetch.data))
        try:
            fetch.request = self._hub.request(
                KVSTORE, request, partial(self._chunk, sha256, fetch), timeout=CHUNK_TIMEOUT
            )
        except PieError as exc:
            self._finish(sha256, fetch, exc)

    def _chunk(self, sha256: str, fetch: _Fetch, answer: Answer[ArtifactChunk]) -> None:
        if self._fetches.get(sha256) is not fetch:
            return
        if answer.error is not None:
            error = answer.error
            if isinstance(error, Unavailable):
                error = StoreUnavailable(f"the program cannot be fetched: {error.message}: try again", cause=error.code)
            self._finish(sha256, fetch, error)
            return
        chunk = answer.value()
        data = bytes(answer.buffers[0]) if answer.buffers else b""
        if chunk.size > MAX_ARTIFACT_BYTES:
            error = TooLarge(f"the program has {chunk.size} bytes; {MAX_ARTIFACT_BYTES} are allowed")
            self._finish(sha256, fetch, error)
            return
        if chunk.offset == len(fetch.data):
            fetch.data += data
            fetch.digest.update(data)
        if len(fetch.data) < chunk.size and data:
            self._ask(sha256, fetch)
        elif fetch.digest.hexdigest() != sha256:
            self._finish(sha256, fetch, HashMismatch(f"the stored program is not {sha256[:12]}...: install it again"))
        else:
            self.cache.write(sha256, bytes(fetch.data))
            self._finish(sha256, fetch, None)

    def _finish(self, sha256: str, fetch: _Fetch, error: PieError | None) -> None:
        self._fetches.pop(sha256, None)
        for then in fetch.waiting:
            then(error)
