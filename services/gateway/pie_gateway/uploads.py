"""Uploads: chunks relayed to kvstore, which keeps and checks them. The gateway holds no bytes, so that an upload
survives its restart; it checks limits and bounds how many run at once."""

from __future__ import annotations

from collections.abc import Callable

from pie_wire.errors import BadField, NotFound, Overloaded, PieError, TooLarge
from pie_wire.messages.common import CHUNK_BYTES, MAX_ARTIFACT_BYTES
from pie_wire.messages.gateway import Upload, UploadState
from pie_wire.messages.kvstore import ArtifactState, PutArtifact, StatArtifact

from pie_gateway.config import GatewayConfig
from pie_gateway.programs import DIGEST
from pie_gateway.session import Call
from pie_gateway.store import Store


class UploadRelay:
    def __init__(self, config: GatewayConfig, store: Store, clock: Callable[[], float]) -> None:
        self._config = config
        self._store = store
        self._clock = clock
        self._active: dict[str, float] = {}
        """Digests with an upload under way, and when each last moved."""

    def upload(self, call: Call[Upload]) -> None:
        """Relay one chunk, or answer how far an earlier upload came.

        Raises:
            BadField, TooLarge: a chunk that cannot be part of an upload. Overloaded: too many are under way.
        """
        message = call.message
        chunk = call.buffers[0] if call.buffers else b""
        _check(message, len(chunk), len(call.buffers))
        digest = message.sha256

        def stored(state: ArtifactState) -> None:
            if state.complete:
                self._active.pop(digest, None)
            call.reply(UploadState(state.stored, state.complete))

        def failed(error: PieError) -> None:
            if not error.retryable:
                self._active.pop(digest, None)
            call.fail(error)

        if len(chunk) == 0:

            def unknown(error: PieError) -> None:
                if isinstance(error, NotFound):
                    call.reply(UploadState(0, complete=False))
                else:
                    call.fail(error)

            self._store.ask(StatArtifact(digest), stored, unknown, scope=call.scope)
            return
        self._claim(digest)
        request = PutArtifact(digest, message.size, message.offset)
        self._store.ask(request, stored, failed, scope=call.scope, buffers=[chunk])

    def _claim(self, digest: str) -> None:
        now = self._clock()
        if digest not in self._active:
            for other, moved in list(self._active.items()):
                if now - moved > self._config.upload_idle:
                    del self._active[other]
            if len(self._active) >= self._config.uploads:
                raise Overloaded(f"{self._config.uploads} uploads are under way: try again when one has finished")
        self._active[digest] = now


def _check(message: Upload, length: int, buffers: int) -> None:
    if not DIGEST.fullmatch(message.sha256):
        raise BadField(f"sha256 is {message.sha256!r}, expected 64 hex digits")
    if buffers > 1:
        raise BadField("an upload message has one buffer, its chunk")
    if message.size > MAX_ARTIFACT_BYTES:
        raise TooLarge(f"an upload of {message.size} bytes exceeds {MAX_ARTIFACT_BYTES}")
    if length > CHUNK_BYTES:
        raise TooLarge(f"a chunk of {length} bytes exceeds {CHUNK_BYTES}")
    if message.size < 1 or message.offset < 0 or message.offset + length > message.size:
        raise BadField(f"a chunk of {length} bytes at {message.offset} does not lie within {message.size} bytes")
