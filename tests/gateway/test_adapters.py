"""Adapters through the gateway: one name on all engines of a model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from gateway_world import FakeClient, World
from pie_wire.errors import BadRequest, Forbidden, NotFound, PieError, Unavailable
from pie_wire.hub import Hub, Incoming
from pie_wire.messages.common import MemberInfo
from pie_wire.messages.engine import AdapterInfo, AdapterList, ListAdapters, LoadAdapter, UnloadAdapter
from pie_wire.messages.gateway import AdapterReport, ListModelAdapters, LoadModelAdapter, UnloadModelAdapter


@dataclass
class FakeEngine:
    """Keeps names, or fails."""

    hub: Hub
    fails: PieError | None = None
    names: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.hub.listen("runners")
        self.hub.on(LoadAdapter, self._load)
        self.hub.on(ListAdapters, lambda _: self._all(self.names))
        self.hub.on(UnloadAdapter, self._unload)

    def _load(self, incoming: Incoming[LoadAdapter]) -> AdapterInfo:
        if self.fails is not None:
            raise self.fails
        self.names.append(incoming.message.name)
        return AdapterInfo(incoming.message.name, "abcd", rank=8)

    def _unload(self, incoming: Incoming[UnloadAdapter]) -> AdapterList:
        if incoming.message.adapter not in self.names:
            raise NotFound("no such adapter")
        self.names.remove(incoming.message.adapter)
        return self._all([incoming.message.adapter])

    def _all(self, names: list[str]) -> AdapterList:
        return AdapterList([AdapterInfo(name, "abcd") for name in names], 10, 100)


class Dialer:
    """Endpoints are names of hubs."""

    def __init__(self, world: World, hub: Hub) -> None:
        self.world = world
        self.hub = hub
        self.hung_up: list[str] = []

    def dial(self, port: str, endpoint: str) -> None:
        self.world._dial("gateway", port, endpoint, "runners")
        self.hub.dial(port)

    def hang_up(self, port: str) -> None:
        self.hung_up.append(port)


def member(name: str, model: str = "tiny", state: Any = "up") -> MemberInfo:
    return MemberInfo("engine", name, 1, endpoint=name, info={"model": model}, state=state)


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def engines(world: World) -> dict[str, FakeEngine]:
    assert world.core is not None
    made = {name: FakeEngine(world._hub("engine", name)) for name in ("engine-0", "engine-1", "other")}
    world.core.adapters._dialer = Dialer(world, world.hubs["gateway"])
    members = [member("engine-0"), member("engine-1"), member("other", "big"), member("gone", state="lost")]
    world.kvstore.members = members
    world.core.adapters.members(members)
    world.run(1.0)
    return made


@pytest.fixture
def client(world: World) -> FakeClient:
    return world.client()


def ask(client: FakeClient, request: Any) -> AdapterReport:
    report = client.ask(request)
    assert isinstance(report, AdapterReport)
    return report


def test_an_adapter_is_loaded_listed_and_unloaded_on_every_engine(engines: dict[str, FakeEngine], client: FakeClient):
    loaded = ask(client, LoadModelAdapter("style", "/a/style"))
    listed = ask(client, ListModelAdapters("tiny"))
    ask(client, UnloadModelAdapter("style"))

    assert [(e.engine, e.adapters[0].rank) for e in loaded.engines] == [("engine-0", 8), ("engine-1", 8), ("other", 8)]
    assert [(e.engine, [a.name for a in e.adapters], e.limit) for e in listed.engines] == [
        ("engine-0", ["style"], 100),
        ("engine-1", ["style"], 100),
    ]
    assert all(engine.names == [] for engine in engines.values())


def test_a_model_chooses_its_engines(engines: dict[str, FakeEngine], client: FakeClient):
    ask(client, LoadModelAdapter("style", "/a/style", "big"))

    assert [engine.names for engine in engines.values()] == [[], [], ["style"]]
    with pytest.raises(NotFound, match="nosuch"):
        client.ask(LoadModelAdapter("style", "/a/style", "nosuch"))


def test_one_engine_that_fails_has_a_row_with_its_error_and_all_of_them_an_error(
    engines: dict[str, FakeEngine], client: FakeClient
):
    engines["engine-1"].fails = BadRequest("not that shape")
    report = ask(client, LoadModelAdapter("style", "/a/style", "tiny"))
    assert [e.error.code if e.error else "" for e in report.engines] == ["", "bad_request"]

    engines["engine-0"].fails = BadRequest("not that shape")
    with pytest.raises(BadRequest, match="shape"):
        client.ask(LoadModelAdapter("style", "/a/style", "tiny"))


def test_an_engine_that_dies_is_a_row_with_an_error(world: World, engines: dict[str, FakeEngine], client: FakeClient):
    world.kill("engine-1")

    report = ask(client, ListModelAdapters("tiny"))

    assert [e.error.retryable if e.error else None for e in report.engines] == [None, True]


def test_a_relative_folder_is_refused(engines: dict[str, FakeEngine], client: FakeClient):
    with pytest.raises(BadRequest, match="absolute"):
        client.ask(LoadModelAdapter("style", "style"))


def test_clients_from_elsewhere_only_look(world: World, engines: dict[str, FakeEngine], client: FakeClient):
    assert world.core is not None
    world.core.adapters._config = type(world.config)(client_adapters="off")

    for request in (LoadModelAdapter("style", "/a"), UnloadModelAdapter("style")):
        with pytest.raises(Forbidden, match="client_adapters"):
            client.ask(request)
    assert ask(client, ListModelAdapters()).engines


def test_without_an_engine_it_is_unavailable(world: World, client: FakeClient):
    world.kvstore.members = []
    assert world.core is not None
    world.core.adapters.members([])

    with pytest.raises(Unavailable):
        client.ask(ListModelAdapters())


def test_links_follow_the_member_list(world: World, engines: dict[str, FakeEngine]):
    assert world.core is not None
    dialer = world.core.adapters._dialer
    assert isinstance(dialer, Dialer)

    world.core.adapters.members([member("engine-0")])

    assert sorted(dialer.hung_up) == ["engine:engine-1", "engine:other"]
