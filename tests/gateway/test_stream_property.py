"""Whatever comes between, a reader has every number once, in order, and one terminal event."""

from __future__ import annotations

import hypothesis.strategies as st
from gateway_world import FakeClient, FakeRunner, World
from hypothesis import settings
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule
from pie_gateway import attachment
from pie_gateway.memory_log import MemoryEventLog
from pie_wire.messages.common import TERMINAL_KINDS, Event

READERS = ("reader-0", "reader-1")


class Reader:
    """Attaches where it likes; checks density as events arrive."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.client: FakeClient = world.client(name)

    def check(self, pid: str, start: int) -> None:
        seqs = self.client.seqs(pid)
        assert seqs == list(range(start, start + len(seqs)))


class Streams(RuleBasedStateMachine):
    """One gateway, two runners, two readers; processes emit, end and are killed while everything restarts."""

    pids = Bundle("pids")

    @initialize()
    def begin(self) -> None:
        self.log = MemoryEventLog()
        self.world = World(self.log, kill_timeout=2.0)
        self.runners = {name: self.world.runner(name, 100) for name in ("runner-0", "runner-1")}
        self.readers = {name: Reader(self.world, name) for name in READERS}
        self.home: dict[str, str] = {}
        self.attached: dict[str, tuple[str, int]] = {}
        self.truth: dict[str, list[Event]] = {}
        """What the runner of each process has emitted."""
        self.endangered: set[str] = set()
        """Processes whose runner was given up at some time."""
        self.window = attachment.WINDOW_EVENTS
        attachment.WINDOW_EVENTS = 16
        self.seen: dict[tuple[str, int], Event] = {}

    @rule(target=pids, reader=st.sampled_from(READERS), acks=st.booleans())
    def launch(self, reader: str, acks: bool) -> str:
        self.world.run(1.0)
        self.readers[reader].client.acks = acks
        pid = self.readers[reader].client.launch()
        self.home[pid] = next(name for name, r in self.runners.items() if pid in r.processes)
        self.truth[pid] = self._events_of(pid)
        self.attached[pid] = (reader, 1)
        return pid

    @rule(pid=pids, count=st.integers(1, 40), again=st.integers(0, 5), settle=st.booleans())
    def emit(self, pid: str, count: int, again: int, settle: bool) -> None:
        """A process goes on; its runner sends some of the last events twice."""
        runner = self._runner_of(pid)
        if runner is not None and not runner.processes[pid].ended:
            for number in range(count):
                runner.emit(pid, "message", str(number))
            if again:
                runner.push(pid, runner.processes[pid].events[-again:])
        if settle:
            self.world.run(0.1)

    @rule(reader=st.sampled_from(READERS), acks=st.booleans())
    def acknowledge(self, reader: str, acks: bool) -> None:
        """A reader stops or goes on acknowledging."""
        client = self.readers[reader].client
        client.acks = acks
        if acks:
            for pid, events in client.events.items():
                if events:
                    client.ack(pid, events[-1].seq)

    @rule(pid=consumes(pids))
    def end(self, pid: str) -> None:
        runner = self._runner_of(pid)
        if runner is not None and not runner.processes[pid].ended:
            runner.emit(pid, "return", "null")

    @rule(pid=pids, reader=st.sampled_from(READERS), share=st.floats(0, 1))
    def attach(self, pid: str, reader: str, share: float) -> None:
        self.world.run(1.5)
        record = self._record(pid)
        start = 1 + int(share * record.last_seq)
        self.readers[reader].client.attach(pid, start)
        self.attached[pid] = (reader, start)

    @rule(down_for=st.floats(0, 1.0))
    def restart_gateway(self, down_for: float) -> None:
        self.world.kill("gateway")
        self.world.run(down_for)
        self.world.start_gateway()
        self.world.run(1.0)
        self.attached.clear()

    @rule(name=st.sampled_from(["runner-0", "runner-1"]))
    def restart_runner(self, name: str) -> None:
        self._endanger(name)
        self.world.kill(name)
        self.runners[name] = self.world.runner(name, 100)

    @rule(name=st.sampled_from(["runner-0", "runner-1"]))
    def lose_a_link(self, name: str) -> None:
        """The gateway gives a living runner up; what it has ends as lost."""
        from pie_wire.errors import PeerLost

        self._endanger(name)
        hub = self.world.hubs["gateway"]
        for peer in [p for p in hub.peers() if p.name == name]:
            hub.lost(peer, PeerLost("silent"))

    @invariant()
    def streams_are_dense(self) -> None:
        for pid, (reader, start) in getattr(self, "attached", {}).items():
            self.readers[reader].check(pid, start)

    @invariant()
    def nothing_seen_ever_changes(self) -> None:
        for reader in getattr(self, "readers", {}).values():
            for pid, events in reader.client.events.items():
                for event in events:
                    assert self.seen.setdefault((pid, event.seq), event) == event

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        attachment.WINDOW_EVENTS = self.window
        self.world.run(8.0)
        for pid in self.home:
            runner = self._runner_of(pid)
            if runner is not None and not runner.processes[pid].ended:
                runner.emit(pid, "return", "null")
        self.world.run(2.0)
        last = self.world.client("last")
        for pid in self.home:
            last.attach(pid, 1)
            self.world.run(1.0)
            events = last.events[pid]
            assert [e.seq for e in events] == list(range(1, len(events) + 1))
            assert [e.seq for e in events if e.kind in TERMINAL_KINDS] == [len(events)]
            for event in events:
                assert self.seen.setdefault((pid, event.seq), event) == event
            self._is_true(pid, events)
        assert self.world.core is not None
        assert self.world.core.table.live_count == 0
        assert all(len(r.processes) == 0 for r in self.world.core.runners)

    def _runner_of(self, pid: str) -> FakeRunner | None:
        runner = self.runners[self.home[pid]]
        return runner if pid in runner.processes else None

    def _events_of(self, pid: str) -> list[Event]:
        return self.runners[self.home[pid]].processes[pid].events

    def _endanger(self, runner: str) -> None:
        self.endangered |= {pid for pid, name in self.home.items() if name == runner}

    def _is_true(self, pid: str, events: list[Event]) -> None:
        """All that the runner emitted or, if it was given up, a part from the start and then `process_lost`."""
        truth = self.truth[pid]
        if events != truth:
            *before, last = events
            assert pid in self.endangered
            assert before == truth[: len(before)]
            assert last.error is not None
            assert last.error.code == "process_lost"

    def _record(self, pid: str):
        assert self.world.core is not None
        process = self.world.core.table.get(pid)
        assert process is not None
        return process.record


TestStreams = Streams.TestCase
TestStreams.settings = settings(max_examples=100, stateful_step_count=25, deadline=None)
