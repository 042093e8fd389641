"""The program registry: name@version to artifact and manifest."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from pie_wire.errors import Conflict, NotFound, TooLarge
from pie_wire.messages.common import Program, ProgramRef

from pie_kvstore import names
from pie_kvstore.artifacts import Artifacts
from pie_kvstore.names import Version
from pie_kvstore.schema import ARTIFACT_SECONDS
from pie_kvstore.store import Store

MAX_MANIFEST_CHARS = 64 << 10
MAX_PROGRAMS = 10_000


class Programs:
    """Installed programs. A name@version keeps its bytes, unless it is replaced on purpose."""

    def __init__(self, store: Store, artifacts: Artifacts, now: Callable[[], float]) -> None:
        """`now` gives Unix seconds."""
        self._store = store
        self._artifacts = artifacts
        self._now = now

    def install(self, ref: ProgramRef, manifest: str, *, replace: bool) -> Program:
        """Register a complete artifact; the same bytes and manifest again change nothing.

        Raises:
            BadField: the name, version or digest is malformed. NotFound: the artifact is not there.
            Conflict: the name@version has other bytes. TooLarge: the manifest, or the registry is full.
        """
        names.program(ref.name)
        Version(ref.version)
        if len(manifest) > MAX_MANIFEST_CHARS:
            raise TooLarge(f"a manifest has at most {MAX_MANIFEST_CHARS} characters, not {len(manifest)}")
        size = self._artifacts.require(ref.sha256)
        title = f"{ref.name}@{ref.version}"
        old = self._find(title)
        if old is not None and old.ref == ref and (old.manifest == manifest or not replace):
            return old
        if old is not None and not replace:
            raise Conflict(f"{title} is installed with other bytes: raise its version, or install with replace")
        program = Program(ref, manifest, size, self._now())
        with self._store.use() as redis:
            if old is None and redis.hlen(self._store.keys.programs) >= MAX_PROGRAMS:
                raise TooLarge(f"the registry holds {MAX_PROGRAMS} programs: nothing more can be installed")
            pipe = redis.pipeline(transaction=True)
            pipe.hset(self._store.keys.programs, title, msgspec.json.encode(program))
            pipe.persist(self._store.keys.artifact(ref.sha256))
            pipe.execute()
        if old is not None and old.ref.sha256 != ref.sha256:
            self._release(old.ref.sha256)
        return program

    def get(self, name: str, version: str) -> Program:
        """One program; without a version the highest, pre-releases included. Raises BadField, NotFound."""
        names.program(name)
        if version:
            Version(version)
            found = self._find(f"{name}@{version}")
            if found is not None:
                return found
        versions = [p for p in self.list() if p.ref.name == name]
        if version and versions:
            there = ", ".join(p.ref.version for p in versions[-8:])
            raise NotFound(f"{name} has no version {version}; installed: {there}")
        if not versions:
            raise NotFound(
                f"no program {name!r} is installed: see `pie programs`, or install it with `pie install DIR`"
            )
        return versions[-1]

    def list(self) -> list[Program]:
        """All programs, by name and rising version."""
        with self._store.use() as redis:
            rows = redis.hvals(self._store.keys.programs)
        programs = [msgspec.json.decode(row, type=Program) for row in rows]
        return sorted(programs, key=lambda p: (p.ref.name, Version(p.ref.version)))

    def _find(self, title: str) -> Program | None:
        with self._store.use() as redis:
            row = redis.hget(self._store.keys.programs, title)
        return msgspec.json.decode(row, type=Program) if row is not None else None

    def _release(self, sha256: str) -> None:
        """Let the bytes of a replaced program expire, if no other program has the same."""
        if not any(p.ref.sha256 == sha256 for p in self.list()):
            with self._store.use() as redis:
                redis.expire(self._store.keys.artifact(sha256), ARTIFACT_SECONDS)
