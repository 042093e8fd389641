"""Process index, page rows and snapshots."""

from __future__ import annotations

import pytest
from kvstore_world import Service, World
from pie_kvstore.core import LEASE_SECONDS
from pie_kvstore.schema import ENDED_SECONDS
from pie_wire.errors import BadField, Conflict, NotFound, PieError, StaleEpoch
from pie_wire.messages.common import PageRow, PoolStats, ProcessInfo
from pie_wire.messages.kvstore import (
    DeleteSnapshot,
    GetSnapshot,
    ListPages,
    ListProcessRows,
    ListSnapshots,
    PutPages,
    PutProcesses,
    PutSnapshot,
    Snapshot,
)


@pytest.fixture
def gateway(world: World) -> Service:
    return world.service("gateway", "gateway")


@pytest.fixture
def engine(world: World) -> Service:
    service = world.service("engine", "engine-0")
    service.join()
    return service


def row(context: int, pages: int = 1) -> PageRow:
    return PageRow(context=context, runner="runner-0", epoch=7, process="p", pages=pages)


def report(engine: Service, *rows: PageRow, dropped: tuple[int, ...] = (), full: bool = False) -> PieError | None:
    gone = [("runner-0", 7, context) for context in dropped]
    pool = PoolStats(total=100, free=100 - len(rows), owned=len(rows))
    epoch = engine.hub.identity.epoch
    return engine.ask(PutPages("engine-0", epoch, list(rows), gone, pool, full)).error


def held(service: Service) -> dict[str, dict[int, int]]:
    return {e.engine: {r.context: r.pages for r in e.rows} for e in service.ask(ListPages()).value().engines}


class TestProcesses:
    def test_rows_outlive_kvstore(self, world: World, gateway: Service):
        rows = [
            ProcessInfo("a" * 32, "hello", "running", created_at=2),
            ProcessInfo("b" * 32, "x", "running", created_at=1),
        ]
        gateway.ask(PutProcesses(rows)).value()

        world.start_kvstore()
        world.step(2.0)

        assert gateway.ask(ListProcessRows()).value().processes == [rows[1], rows[0]]

    def test_ended_rows_go_ten_minutes_after_the_end(self, world: World, gateway: Service):
        ended = ProcessInfo("a" * 32, "hello", "returned", created_at=1, ended_at=world.unix)
        gateway.ask(PutProcesses([ended])).value()
        assert gateway.ask(ListProcessRows()).value().processes == [ended]

        world.unix += ENDED_SECONDS
        assert gateway.ask(ListProcessRows()).value().processes == []
        world.step(6.0)

        redis, keys = world.core.store._client, world.core.store.keys
        assert redis.hlen(keys.processes) == 0
        assert redis.zcard(keys.ending) == 0

    def test_a_malformed_row_stores_none(self, gateway: Service):
        rows = [ProcessInfo("a" * 32, "hello", "running"), ProcessInfo("../x", "hello", "running")]

        assert isinstance(gateway.ask(PutProcesses(rows)).error, BadField)
        assert gateway.ask(ListProcessRows()).value().processes == []


class TestPages:
    def test_net_changes_add_up(self, engine: Service):
        report(engine, row(1), row(2), full=True)
        report(engine, row(2, 5), row(3), dropped=(1,))

        assert held(engine) == {"engine-0": {2: 5, 3: 1}}

    def test_a_full_report_replaces_all(self, engine: Service):
        report(engine, row(1), row(2), full=True)
        report(engine, row(9), full=True)

        assert held(engine) == {"engine-0": {9: 1}}

    def test_the_first_report_must_be_full(self, engine: Service):
        assert isinstance(report(engine, row(1)), Conflict)

    def test_rows_go_with_the_engines_process(self, world: World, gateway: Service, engine: Service):
        report(engine, row(1), full=True)

        world.kill(engine)
        world.step(0.2)

        assert held(gateway) == {}

    def test_rows_go_with_the_engines_lease(self, world: World, gateway: Service, engine: Service):
        report(engine, row(1), full=True)
        engine.stopped = True
        world.step(LEASE_SECONDS + 1)

        assert held(gateway) == {}

    def test_rows_of_a_dead_engine_go_after_an_outage(self, world: World, gateway: Service, engine: Service):
        report(engine, row(1), full=True)
        world.server.connected = False
        world.kill(engine)
        world.step(1.0)

        world.server.connected = True
        world.step(2.0)

        assert held(gateway) == {}

    def test_a_new_incarnation_starts_with_no_rows(self, world: World, engine: Service):
        report(engine, row(1), full=True)
        successor = world.service("engine", "engine-0")
        successor.join()
        world.step(0.2)

        assert held(successor) == {}
        report(successor, row(4), full=True)
        assert held(successor) == {"engine-0": {4: 1}}

    def test_only_the_living_epoch_may_write(self, engine: Service):
        stale = PutPages("engine-0", engine.hub.identity.epoch - 1, [row(1)], full=True)

        assert isinstance(engine.ask(stale).error, StaleEpoch)

    def test_only_the_engine_itself_may_write(self, gateway: Service, engine: Service):
        foreign = PutPages("engine-0", engine.hub.identity.epoch, [row(1)], full=True)

        assert isinstance(gateway.ask(foreign).error, BadField)


class TestSnapshots:
    @pytest.fixture
    def runner(self, world: World) -> Service:
        return world.service("runner", "runner-0")

    def test_saving_over_a_name_replaces_it(self, runner: Service):
        runner.ask(PutSnapshot(Snapshot("s", "m", [1]))).value()
        runner.ask(PutSnapshot(Snapshot("s", "m", [1, 2]))).value()

        found = runner.ask(GetSnapshot("s")).value().snapshot
        assert found.tokens == [1, 2]
        assert found.saved_at > 0

    def test_take_leaves_nothing(self, runner: Service):
        runner.ask(PutSnapshot(Snapshot("s", "m", [1]))).value()

        assert runner.ask(GetSnapshot("s", take=True)).value().snapshot.tokens == [1]
        assert isinstance(runner.ask(GetSnapshot("s", take=True)).error, NotFound)

    def test_names_belong_to_tenant_and_user(self, runner: Service):
        runner.ask(PutSnapshot(Snapshot("s", "m", [1])), tenant="a/b", user="c").value()
        runner.ask(PutSnapshot(Snapshot("s", "m", [2])), tenant="a", user="b/c").value()

        assert runner.ask(GetSnapshot("s"), tenant="a/b", user="c").value().snapshot.tokens == [1]
        assert runner.ask(ListSnapshots(), tenant="a", user="b/c").value().names == ["s"]
        assert runner.ask(ListSnapshots()).value().names == []

    def test_delete(self, runner: Service):
        runner.ask(PutSnapshot(Snapshot("s", "m", [1]))).value()
        runner.ask(DeleteSnapshot("s")).value()

        assert isinstance(runner.ask(DeleteSnapshot("s")).error, NotFound)

    @pytest.mark.parametrize("name", ["", "a\nb", "x" * 257])
    def test_malformed_names(self, runner: Service, name: str):
        assert isinstance(runner.ask(PutSnapshot(Snapshot(name, "m", [1]))).error, BadField)
