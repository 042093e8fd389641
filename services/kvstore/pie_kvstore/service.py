"""The shell of kvstore: owns the socket and Redis, and drives the core."""

from __future__ import annotations

import os
import select
import time

import msgspec
import structlog
from pie_wire.errors import PeerLost
from pie_wire.hub import Hub
from pie_wire.messages.common import MemberInfo
from pie_wire.messages.link import Identity
from pie_wire.process import Shutdown, identity, watch
from pie_wire.transport import TICK, Transport

from pie_kvstore.backend import Backend
from pie_kvstore.config import Config
from pie_kvstore.core import PORT, KvstoreCore

log = structlog.get_logger("pie.kvstore")


def serve(config: Config, shutdown: Shutdown) -> None:
    """Run until asked to stop.

    Raises:
        PieError: kvstore cannot start: the message says why.
    """
    me = identity("kvstore", config.name)
    hub = Hub(me, time.monotonic)
    backend = Backend(config)
    try:
        backend.warn_if_forgetful()
        core = KvstoreCore(
            hub,
            backend.client,
            prefix=config.prefix,
            snapshot_bytes=config.snapshot_bytes,
            is_dead=lambda who: _has_ended(who, me),
            topic_messages=config.topic_messages,
            topic_bytes=config.topic_bytes,
            user_topics=config.user_topics,
        )
        description = backend.describe()
        transport = Transport(hub)
        try:
            endpoint = transport.bind(PORT, config.listen)
            core.facts = _facts(me, endpoint, description, core)
            log.info("ready", endpoint=endpoint, redis=description)
            while not shutdown.requested.is_set():
                transport.poll(TICK)
                _tend(backend, core)
                core.tick()
                hub.progress += 1
            log.info("stopping")
        finally:
            core.stop()
            transport.close(PeerLost("kvstore is shutting down"))
    finally:
        backend.close()


def _tend(backend: Backend, core: KvstoreCore) -> None:
    if backend.embedded is not None and backend.embedded.tend():
        core.store.reset()
    state = "up" if core.store.available else "stuck"
    if core.facts is not None and core.facts.state != state:
        core.facts = msgspec.structs.replace(core.facts, state=state)


def _facts(me: Identity, endpoint: str, backend: str, core: KvstoreCore) -> MemberInfo:
    return MemberInfo(
        kind=me.kind,
        name=me.name,
        epoch=core.members.boot,
        endpoint=endpoint,
        pid=me.pid,
        host=me.host,
        incarnation=me.incarnation,
        info={"backend": backend},
    )


def _has_ended(who: Identity, me: Identity) -> bool:
    """Whether a process of this host has ended; a zombie has. False where that cannot be known."""
    if not who.host or who.host != me.host or who.pid <= 0:
        return False
    fd = watch(who.pid)
    if fd is None:
        try:
            os.kill(who.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            return False
        return False
    try:
        return bool(select.select([fd], [], [], 0)[0])
    finally:
        os.close(fd)
