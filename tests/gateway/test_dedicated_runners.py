"""Runners of tenants: no foreign tenant is ever on one, and a tenant that has them goes there first, or only."""

from __future__ import annotations

import pytest
from gateway_world import FakeClient, FakeRunner, World
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from pie_wire.errors import Overloaded, PieError, Unavailable
from pie_wire.hub import Answer
from pie_wire.messages.gateway import Launch, Launched
from pie_wire.tenants import TenantLimits, TenantTable

TABLE = TenantTable(TenantLimits(), {"alone": TenantLimits(own_runner=True)})


@pytest.fixture
def world() -> World:
    return World(tenants=TABLE)


def launch(world: World, client: FakeClient, tenant: str) -> str:
    pid = world.pid()
    client.ask(Launch(pid, "hello"), tenant=tenant)
    return pid


def refusal(client: FakeClient, world: World, tenant: str) -> PieError:
    with pytest.raises(PieError) as caught:
        launch(world, client, tenant)
    return caught.value


def test_a_tenant_goes_to_its_own_runner_first_and_others_never_do(world: World, client: FakeClient):
    shared, own = world.runner("shared"), world.runner("own", 1, ["acme"])

    first, second = launch(world, client, "acme"), launch(world, client, "acme")
    foreign = launch(world, client, "other")

    assert own.started == [first]
    assert shared.started == [second, foreign], "what its own has no room for goes where all go"


def test_a_runner_of_several_tenants_is_for_each_of_them(world: World, client: FakeClient):
    own = world.runner("own", 8, ["acme", "globex"])

    assert own.started == [launch(world, client, "acme"), launch(world, client, "globex")]


def test_one_that_runs_only_on_its_own_is_refused_without(world: World, client: FakeClient):
    shared = world.runner("shared")

    error = refusal(client, world, "alone")

    assert isinstance(error, Unavailable)
    assert "own_runner" in error.message
    assert "--dedicated-to alone" in error.message
    assert shared.started == []


def test_one_that_runs_only_on_its_own_waits_for_it(world: World, client: FakeClient):
    shared, pid = world.runner("shared"), world.pid()
    answers = client.send(Launch(pid, "hello"), tenant="alone")
    world.run(2.0)
    own = world.runner("own", 8, ["alone"])
    world.run(1.0)

    assert answers[0].value().pid == pid
    assert (own.started, shared.started) == ([pid], [])


def test_one_that_runs_only_on_its_own_waits_when_that_is_full(world: World, client: FakeClient):
    shared, own = world.runner("shared"), world.runner("own", 1, ["alone"])
    launch(world, client, "alone")

    error = refusal(client, world, "alone")

    assert isinstance(error, Overloaded)
    assert (len(own.started), shared.started) == (1, [])


def test_others_are_told_when_all_runners_are_somebodys(world: World, client: FakeClient):
    world.runner("own", 8, ["acme"])

    error = refusal(client, world, "other")

    assert isinstance(error, Unavailable)
    assert "dedicated to other tenants" in error.message


def test_nobody_waits_behind_a_tenant_that_has_no_runner(world: World, client: FakeClient):
    shared = world.runner("shared")
    for _ in range(3):
        client.send(Launch(world.pid(), "hello"), tenant="alone")
    world.run(0.2)

    began = world.now
    pid = launch(world, client, "other")

    assert shared.started == [pid]
    assert world.now - began < 1.0


def test_children_are_placed_as_their_parents_are(world: World, client: FakeClient):
    shared, own = world.runner("shared"), world.runner("own", 2, ["alone"])
    parent = launch(world, client, "alone")

    there = own.child(parent, world.pid())
    world.run()
    beyond = own.child(parent, world.pid())
    world.run(11.0)

    assert there[0].error is None
    assert isinstance(beyond[0].error, Overloaded)
    assert shared.started == []


def test_after_the_death_of_its_runner_a_tenant_waits_for_the_next(world: World, client: FakeClient):
    shared, own = world.runner("shared"), world.runner("own", 8, ["alone"])
    launch(world, client, "alone")
    world.kill("own")
    answers = client.send(Launch(world.pid(), "hello"), tenant="alone")
    world.run(1.0)
    successor = world.runner("own", 8, ["alone"])
    world.run(1.0)

    assert answers[0].error is None
    assert (len(own.started), len(successor.started), shared.started) == (1, 1, [])


TENANTS = ("acme", "alone", "other")
NAMES = ("runner-0", "runner-1", "runner-2")


class Placement(RuleBasedStateMachine):
    """Runners of any dedication come and go, fill up and refuse; programs and their children are launched and end."""

    @initialize()
    def begin(self) -> None:
        self.world = World(tenants=TABLE)
        self.client = self.world.client()
        self.runners: dict[str, FakeRunner] = {}
        self.gone: list[FakeRunner] = []
        self.asked: list[tuple[str, list[Answer[Launched]]]] = []

    @rule(name=st.sampled_from(NAMES), capacity=st.integers(0, 3), tenants=st.sets(st.sampled_from(TENANTS[:2])))
    def come(self, name: str, capacity: int, tenants: set[str]) -> None:
        self.go(name)
        self.runners[name] = self.world.runner(name, capacity, sorted(tenants))

    @rule(name=st.sampled_from(NAMES))
    def go(self, name: str) -> None:
        if name in self.runners:
            self.world.kill(name)
            self.gone.append(self.runners.pop(name))

    @rule(tenant=st.sampled_from(TENANTS), count=st.integers(1, 4))
    def launch(self, tenant: str, count: int) -> None:
        for _ in range(count):
            self.asked.append((tenant, self.client.send(Launch(self.world.pid(), "hello"), tenant=tenant)))

    @rule(data=st.data())
    def child(self, data: st.DataObject) -> None:
        living = [(r, pid) for r in self.runners.values() for pid, p in r.processes.items() if not p.ended and r.peer]
        if living:
            runner, pid = data.draw(st.sampled_from(living))
            self.asked.append((runner.scopes[pid].tenant, runner.child(pid, self.world.pid())))

    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        living = [(r, pid) for r in self.runners.values() for pid, p in r.processes.items() if not p.ended]
        if living:
            runner, pid = data.draw(st.sampled_from(living))
            runner.emit(pid, "return", "1")

    @rule(name=st.sampled_from(NAMES), full=st.booleans())
    def refuse(self, name: str, full: bool) -> None:
        if name in self.runners:
            self.runners[name].refuse = Overloaded("full") if full else None

    @rule()
    def restart_gateway(self) -> None:
        self.world.restart_gateway()

    @rule(seconds=st.sampled_from([0.1, 1.0, 6.0]))
    def wait(self, seconds: float) -> None:
        self.world.run(seconds)

    @rule()
    def settle(self) -> None:
        """With room for all, all that wait are placed within the second, but for those with no runner to go to."""
        for runner in self.runners.values():
            runner.refuse = None
        self.world.run(25.0)
        assert self.world.core is not None
        assert self.world.core.launcher.queued == 0
        for tenant in TENANTS:
            homes = [r for r in self.runners.values() if self._may(tenant, r) and self._room(r)]
            pid = self.world.pid()
            answers = self.client.send(Launch(pid, "hello"), tenant=tenant)
            self.world.run(1.0)
            assert bool(homes) == bool(answers and answers[0].error is None)
            own = [r for r in homes if r.tenants]
            if own:
                assert any(pid in r.started for r in own), "its own first"
            self.world.run(11.0)

    @invariant()
    def nobody_is_where_he_may_not_be(self) -> None:
        for runner in [*self.runners.values(), *self.gone]:
            for scope in runner.scopes.values():
                assert self._may(scope.tenant, runner), (scope, runner.name, runner.tenants)

    def _may(self, tenant: str, runner: FakeRunner) -> bool:
        return tenant in runner.tenants if runner.tenants else tenant != "alone"

    def _room(self, runner: FakeRunner) -> bool:
        return sum(1 for p in runner.processes.values() if not p.ended) < runner.capacity

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.run(25.0)
            self.nobody_is_where_he_may_not_be()
            for tenant, answers in self.asked:
                assert len(answers) == 1, f"a launch of {tenant} got {len(answers)} answers"


TestPlacement = Placement.TestCase
TestPlacement.settings = settings(max_examples=8, stateful_step_count=12, deadline=None)
