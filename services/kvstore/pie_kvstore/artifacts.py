"""Artifacts: program bytes by their SHA-256, received and given out in chunks."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Protocol

from pie_wire.errors import BadField, HashMismatch, NotFound, TooLarge
from pie_wire.messages.common import CHUNK_BYTES, MAX_ARTIFACT_BYTES

from pie_kvstore import names
from pie_kvstore.schema import ARTIFACT_SECONDS, UPLOAD_SECONDS
from pie_kvstore.store import Store

MAX_CHUNK_BYTES = 4 << 20
MAX_HASHERS = 64


class _Digest(Protocol):
    def update(self, data: bytes, /) -> None: ...
    def hexdigest(self) -> str: ...


@dataclass
class _Hasher:
    """A digest kept beside an upload; bytes it has not seen are read back before the end."""

    done: int = 0
    state: _Digest = field(default_factory=hashlib.sha256)


class Artifacts:
    """Bytes whose digest has been checked, and uploads under way, which outlive kvstore. With an `owner` (of
    `schema.owner_key`) they are a user's own, apart from everybody else's."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._hashers: dict[str, _Hasher] = {}

    def stat(self, sha256: str, owner: str = "") -> tuple[int, bool]:
        """Bytes stored, and whether that is all of it. Keeps an unnamed artifact for another day."""
        names.digest(sha256)
        with self._store.use() as redis:
            stored = redis.strlen(self._store.keys.artifact(sha256, owner))
        if stored:
            self.touch(sha256, owner)
            return stored, True
        return self._received(sha256, owner), False

    def put(self, sha256: str, size: int, offset: int, chunk: bytes | memoryview, owner: str = "") -> tuple[int, bool]:
        """Take a chunk at `offset` of `size` bytes; returns what `stat` would. Bytes that are there already are
        skipped; a chunk beyond the end is not taken, and the answer says where to go on.

        Raises:
            BadField, TooLarge: the numbers do not fit. HashMismatch: all bytes are there but are not the digest's;
            the upload starts again from nothing.
        """
        names.digest(sha256)
        if not 0 < size <= MAX_ARTIFACT_BYTES:
            raise TooLarge(f"an artifact has 1 to {MAX_ARTIFACT_BYTES} bytes, not {size}")
        if offset < 0 or offset + len(chunk) > size:
            raise BadField(f"chunk {offset}+{len(chunk)} lies outside of its {size} bytes")
        if len(chunk) > MAX_CHUNK_BYTES:
            raise TooLarge(f"a chunk has at most {MAX_CHUNK_BYTES} bytes; send {CHUNK_BYTES} at a time")
        stored, complete = self.stat(sha256, owner)
        if complete:
            return stored, True
        if stored > size:
            raise BadField(f"{stored} bytes of this upload are stored already, more than the announced {size}")
        fresh = bytes(chunk[max(0, stored - offset) :]) if offset <= stored else b""
        if fresh:
            key = self._store.keys.upload(sha256, owner)
            with self._store.use() as redis:
                pipe = redis.pipeline(transaction=True)
                pipe.append(key, fresh)
                pipe.expire(key, UPLOAD_SECONDS)
                pipe.execute()
            hasher = self._hasher(key)
            if hasher.done == stored:
                hasher.state.update(fresh)
                hasher.done += len(fresh)
            stored += len(fresh)
        if stored < size:
            return stored, False
        self._complete(sha256, size, owner)
        return size, True

    def get(self, sha256: str, offset: int, owner: str = "") -> tuple[int, bytes]:
        """The size, and the chunk at `offset` (empty at the end). Raises NotFound, BadField."""
        size, complete = self.stat(sha256, owner)
        if not complete:
            raise NotFound(f"no artifact {sha256}: upload it first")
        if not 0 <= offset <= size:
            raise BadField(f"offset {offset} lies outside of its {size} bytes")
        with self._store.use() as redis:
            return size, redis.getrange(self._store.keys.artifact(sha256, owner), offset, offset + CHUNK_BYTES - 1)

    def require(self, sha256: str, owner: str = "") -> int:
        """Size of a complete artifact. Raises NotFound."""
        size, complete = self.stat(sha256, owner)
        if not complete:
            raise NotFound(f"artifact {sha256} is not complete: upload all of it, then install")
        return size

    def touch(self, sha256: str, owner: str = "") -> None:
        """Keep an artifact for another day, unless it is kept for good."""
        key = self._store.keys.artifact(sha256, owner)
        with self._store.use() as redis:
            if redis.ttl(key) >= 0:
                redis.expire(key, ARTIFACT_SECONDS)

    def _received(self, sha256: str, owner: str) -> int:
        with self._store.use() as redis:
            return redis.strlen(self._store.keys.upload(sha256, owner))

    def _hasher(self, key: str) -> _Hasher:
        hasher = self._hashers.get(key)
        if hasher is None:
            while len(self._hashers) >= MAX_HASHERS:
                del self._hashers[next(iter(self._hashers))]
            hasher = self._hashers[key] = _Hasher()
        return hasher

    def _complete(self, sha256: str, size: int, owner: str) -> None:
        upload, artifact = self._store.keys.upload(sha256, owner), self._store.keys.artifact(sha256, owner)
        hasher = self._hashers.pop(upload, None) or _Hasher()
        with self._store.use() as redis:
            while hasher.done < size:
                part = redis.getrange(upload, hasher.done, hasher.done + MAX_CHUNK_BYTES - 1)
                if not part:
                    break
                hasher.state.update(part)
                hasher.done += len(part)
            if hasher.state.hexdigest() != sha256:
                redis.delete(upload)
                raise HashMismatch(f"the {size} bytes received are not those of {sha256}: send them again")
            pipe = redis.pipeline(transaction=True)
            pipe.rename(upload, artifact)
            pipe.expire(artifact, ARTIFACT_SECONDS)
            pipe.execute()
