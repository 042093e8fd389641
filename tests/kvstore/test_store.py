"""Redis down, hanging and coming back."""

from __future__ import annotations

import fakeredis
import pytest
import redis
from kvstore_world import World
from pie_kvstore.core import KvstoreCore
from pie_kvstore.store import Store
from pie_wire.errors import InternalError, StoreUnavailable, Unsupported
from pie_wire.hub import Hub
from pie_wire.messages.kvstore import ListPrograms
from pie_wire.messages.link import Identity


class Hanging:
    """A Redis whose commands time out; counts how often it was tried."""

    def __init__(self, error: Exception) -> None:
        self.error = error
        self.tries = 0

    def ping(self) -> bool:
        self.tries += 1
        raise self.error


def test_requests_fail_at_once_and_work_again_without_a_restart(world: World):
    service = world.service("gateway", "gateway")
    world.step(0.5)
    world.server.connected = False
    before = world.now

    error = service.ask(ListPrograms()).error

    assert isinstance(error, StoreUnavailable)
    assert error.retryable
    assert world.now - before < 0.5
    world.server.connected = True
    world.step(1.5)
    assert service.ask(ListPrograms()).value().programs == []


def test_a_hanging_redis_is_tried_once_per_pause():
    now = 0.0
    hanging = Hanging(redis.TimeoutError("slow"))
    store = Store(hanging, lambda: now, pause=1.0)
    for _ in range(10):
        with pytest.raises(StoreUnavailable), store.use() as client:
            client.ping()
    assert hanging.tries == 1

    now = 1.1
    with pytest.raises(StoreUnavailable), store.use() as client:
        client.ping()
    assert hanging.tries == 2


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (redis.BusyLoadingError("loading"), StoreUnavailable),
        (redis.ReadOnlyError("replica"), StoreUnavailable),
        (redis.ResponseError("MISCONF disk"), StoreUnavailable),
        (redis.ResponseError("WRONGTYPE"), InternalError),
    ],
)
def test_refusals_are_typed(error: Exception, expected: type[Exception]):
    store = Store(Hanging(error), lambda: 0.0)

    with pytest.raises(expected), store.use() as client:
        client.ping()


def test_data_of_another_schema_is_refused():
    client = fakeredis.FakeRedis()
    client.set("pie:schema", 99)

    with pytest.raises(Unsupported, match="schema"):
        KvstoreCore(Hub(Identity("kvstore", "kvstore"), lambda: 0.0), client)


def test_prefixes_keep_deployments_apart():
    client = fakeredis.FakeRedis()
    for prefix in ("one", "two"):
        KvstoreCore(Hub(Identity("kvstore", "kvstore"), lambda: 0.0), client, prefix=prefix)

    assert {key.split(b":")[0] for key in client.scan_iter()} == {b"one", b"two"}


def test_a_core_without_redis_does_not_start():
    server = fakeredis.FakeServer()
    server.connected = False

    with pytest.raises(StoreUnavailable):
        KvstoreCore(Hub(Identity("kvstore", "kvstore"), lambda: 0.0), fakeredis.FakeRedis(server=server))
