"""Program names turned into bytes: resolution through kvstore's registry with a small cache, install and list."""

from __future__ import annotations

import difflib
import re
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from pie_wire.capabilities import Grants, asked_by, checked
from pie_wire.errors import BadField, NotFound, PieError, StoreUnavailable, TooLarge
from pie_wire.hub import Scope
from pie_wire.messages.common import ProgramRef
from pie_wire.messages.gateway import Install, Installed, Launch, ListInstalled, Programs
from pie_wire.messages.kvstore import (
    ArtifactState,
    GetProgram,
    InstallProgram,
    ListPrograms,
    ProgramList,
    ProgramRow,
    StatArtifact,
)

from pie_gateway import manifest
from pie_gateway.session import Call
from pie_gateway.store import Store

CACHE = 1024
FRESH = 2.0
"""Seconds a cached answer is used without asking again; older ones serve only while kvstore is away."""

DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Resolved:
    """A program that a launch names, and what it asks for."""

    ref: ProgramRef
    asks: Grants
    at: float


class ProgramCatalogue:
    def __init__(self, store: Store, clock: Callable[[], float]) -> None:
        self._store = store
        self._clock = clock
        self._cache: OrderedDict[str, Resolved] = OrderedDict()

    def resolve(
        self, launch: Launch, scope: Scope, then: Callable[[Resolved], None], fail: Callable[[PieError], None]
    ) -> None:
        """Find what a launch names. One of `then` and `fail` is called, now or later.

        Raises:
            BadField: the name cannot be one, or the manifest of an upload asks for what there is not.
        """
        if launch.program.startswith("sha256:"):
            self._resolve_upload(launch, scope, then, fail)
            return
        name, at, version = launch.program.partition("@")
        if not manifest.NAME.fullmatch(name) or (at and not manifest.SEMVER.fullmatch(version)):
            raise BadField(f"{launch.program!r} is no program: expected NAME, NAME@1.2.3 or sha256:DIGEST")
        key = f"{scope.tenant}/{scope.user}/{launch.program}"
        cached = self._cache.get(key)
        if cached and (self._clock() - cached.at < FRESH or not self._store.is_up):
            then(cached)
            return

        def found(row: ProgramRow) -> None:
            try:
                asks = asked_by(row.program.manifest)
            except BadField as exc:
                fail(exc)
                return
            then(self._remember(key, row.program.ref, asks))

        def failed(error: PieError) -> None:
            if isinstance(error, StoreUnavailable) and cached:
                then(cached)
            elif isinstance(error, NotFound):
                self._explain(launch.program, name, scope, fail)
            else:
                fail(error)

        self._store.ask(GetProgram(name, version), found, failed, scope=scope)

    def install(self, call: Call[Install]) -> None:
        message = call.message
        if not DIGEST.fullmatch(message.sha256):
            raise BadField(f"sha256 is {message.sha256!r}, expected 64 hex digits")
        parsed = manifest.parse(message.manifest)
        ref = ProgramRef(parsed.name, parsed.version, message.kind, message.sha256)

        def installed(row: ProgramRow) -> None:
            self._cache.clear()  # an unversioned name may now mean another version
            call.reply(Installed(row.program))

        request = InstallProgram(ref, message.manifest, message.replace)
        self._store.ask(request, installed, call.fail, scope=call.scope)

    def list_installed(self, call: Call[ListInstalled]) -> None:
        self._store.ask(ListPrograms(), lambda r: call.reply(Programs(r.programs)), call.fail, scope=call.scope)

    def _resolve_upload(
        self, launch: Launch, scope: Scope, then: Callable[[Resolved], None], fail: Callable[[PieError], None]
    ) -> None:
        digest = launch.program.removeprefix("sha256:")
        if not DIGEST.fullmatch(digest):
            raise BadField(f"{launch.program!r}: expected sha256: and 64 hex digits")
        if len(launch.manifest) > manifest.MAX_MANIFEST_BYTES:
            raise TooLarge(f"a manifest has at most {manifest.MAX_MANIFEST_BYTES} bytes")
        asks = asked_by(launch.manifest) | checked(launch.allow) | Grants(mcp=launch.mcp)
        program = Resolved(ProgramRef(launch.filename, "", launch.kind, digest), asks, self._clock())
        key = f"sha256:{digest}"
        if key in self._cache:  # content under a digest does not change
            self._cache.move_to_end(key)
            then(program)
            return

        def stated(state: ArtifactState) -> None:
            if state.complete:
                self._remember(key, program.ref, asks)
                then(program)
            else:
                fail(_no_upload(digest))

        def failed(error: PieError) -> None:
            fail(_no_upload(digest) if isinstance(error, NotFound) else error)

        self._store.ask(StatArtifact(digest), stated, failed, scope=scope)

    def _explain(self, wanted: str, name: str, scope: Scope, fail: Callable[[PieError], None]) -> None:
        """Fail with what there is instead."""

        def listed(reply: ProgramList) -> None:
            refs = [p.ref for p in reply.programs]
            versions = sorted(r.version for r in refs if r.name == name)
            names = sorted({r.name for r in refs})
            if versions:
                hint = f"installed versions of {name}: {', '.join(versions[-20:])}"
            elif close := difflib.get_close_matches(name, names, n=3):
                hint = f"did you mean {' or '.join(close)}? Installed: {', '.join(names[:20])}"
            else:
                hint = f"installed: {', '.join(names[:20]) or 'none'}"
            fail(NotFound(f"no program {wanted}; {hint}"))

        self._store.ask(ListPrograms(), listed, lambda _: fail(NotFound(f"no program {wanted}")), scope=scope)

    def _remember(self, key: str, ref: ProgramRef, asks: Grants) -> Resolved:
        found = self._cache[key] = Resolved(ref, asks, self._clock())
        self._cache.move_to_end(key)
        while len(self._cache) > CACHE:
            self._cache.popitem(last=False)
        return found


def _no_upload(digest: str) -> NotFound:
    return NotFound(f"no upload with digest {digest}: upload the program first")
