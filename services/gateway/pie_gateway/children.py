"""Programs launched by programs: who belongs to whom, how many there may be, and that none outlives its parent.

runner --LaunchChild--> admit -> launcher, as any launch
child ends --> ChildEnded to the parent's runner
parent ends --> its children end with it, except detached ones
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from pie_wire.capabilities import Capabilities
from pie_wire.errors import BadField, Cancelled, Gone, LimitExceeded, PieError, Terminated
from pie_wire.hub import Hub, Incoming, Peer, Scope
from pie_wire.messages.gateway import DetachChild, EndChild, Launch, LaunchChild
from pie_wire.messages.runner import ChildEnded

from pie_gateway.config import GatewayConfig
from pie_gateway.control import ProcessControl
from pie_gateway.launcher import Launcher
from pie_gateway.lineage import Lineage
from pie_gateway.log import EventLog
from pie_gateway.process import Process
from pie_gateway.session import Call, Session
from pie_gateway.streams import EventStreams
from pie_gateway.table import ProcessTable

SLOW_BYTES = 16 << 20
"""Owed to a runner beyond which results of children wait here: they must not cost it its link."""
CANCELLED = "cancelled by the program that launched it"


class Children:
    """The family relations of all processes. They are durable in the records; the indexes here are made of those."""

    def __init__(
        self,
        config: GatewayConfig,
        hub: Hub,
        table: ProcessTable,
        streams: EventStreams,
        event_log: EventLog,
        launcher: Launcher,
        control: ProcessControl,
    ) -> None:
        self._config = config
        self._hub = hub
        self._table = table
        self._log = event_log
        self._launcher = launcher
        self._control = control
        self._of: dict[str, dict[str, Lineage]] = {}
        """Children that have not ended, by parent and pid; also those that no runner has yet."""
        self._trees: Counter[str] = Counter()
        """How many of them each tree has, by the pid of its root."""
        self._untold: dict[str, Process] = {}
        """Ended children whose parent's runner is slow to take what it is sent."""
        streams.on_end(self._ended)
        self._recover()

    def launch(self, incoming: Incoming[LaunchChild]) -> None:
        """Launch for a process of the sending runner, or join the launch with the same id.

        Raises:
            Gone: the parent has ended. LimitExceeded: too deep, or too many. BadField, and what a launch raises.
        """
        message = incoming.message
        parent = self._parent(incoming.peer, message.parent)
        if message.program.startswith("sha256:"):
            raise BadField("a program launches others by name: NAME or NAME@VERSION")
        lineage = self._of.get(message.parent, {}).get(message.pid) or self._lineage(parent, message)
        if message.detached and not lineage.detached:
            self._detach(message.parent, message.pid)
        scope = Scope(parent.record.tenant, parent.record.user, incoming.scope.trace)

        def fail(error: PieError) -> None:
            if self._table.get(message.pid) is None:
                self._remove(message.parent, message.pid)
            incoming.fail(error)

        if self._table.get(message.pid) is None and self._table.expired(message.pid) is None:
            self._admit(parent, message.pid, lineage)
        launch = Launch(message.pid, message.program, message.input, attach=False, on_full="drop", near=message.near)
        session = Session(f"process {message.parent}", lambda _: None)
        try:
            self._launcher.launch(Call(session, launch, scope, (), incoming.reply, fail), lineage)
        except PieError as exc:
            fail(exc)
            return
        known = self._table.get(message.pid)
        if known is not None and known.record.ended:
            self._tell(known)

    def detach(self, incoming: Incoming[DetachChild]) -> None:
        self._parent(incoming.peer, incoming.message.parent)
        self._detach(incoming.message.parent, incoming.message.pid)

    def end(self, incoming: Incoming[EndChild]) -> None:
        parent, pid = self._parent(incoming.peer, incoming.message.parent), incoming.message.pid
        process = self._table.get(pid)
        if pid in self._of.get(parent.pid, {}):
            self._end(parent.pid, pid, CANCELLED)
        elif process is not None and process.record.parent == parent.pid:
            self._tell(process)
        else:
            self._hub.send(incoming.peer, ChildEnded(parent.pid, pid, error=Cancelled(CANCELLED).info()))

    # -- admission

    def _parent(self, peer: Peer, pid: str) -> Process:
        process = self._table.get(pid)
        if process is None or process.record.ended or process.kill_reason:
            raise Gone(f"process {pid} has ended: it can launch nothing any more")
        if process.runner is None or process.runner.peer is not peer:
            raise BadField(f"process {pid} is not with this runner")
        return process

    def _lineage(self, parent: Process, message: LaunchChild) -> Lineage:
        record = parent.record
        return Lineage(
            record.pid,
            record.root or record.pid,
            record.depth + 1,
            detached=message.detached,
            capabilities=record.capabilities,
            allow=record.allow,
        )

    def _admit(self, parent: Process, pid: str, lineage: Lineage) -> None:
        siblings = self._of.setdefault(parent.pid, {})
        if pid in siblings:
            return
        try:
            if lineage.depth > self._config.child_depth:
                raise _exceeded("child_depth", self._config.child_depth, "a program of a program of ... that deep")
            if self._trees[lineage.root] + 1 >= self._config.tree_processes:
                raise _exceeded("tree_processes", self._config.tree_processes, "one launch and its descendants")
        except LimitExceeded:
            if not siblings:
                del self._of[parent.pid]
            raise
        self._add(pid, lineage)

    def _add(self, pid: str, lineage: Lineage) -> None:
        self._of.setdefault(lineage.parent, {})[pid] = lineage
        self._trees[lineage.root] += 1

    def _remove(self, parent: str, pid: str) -> None:
        siblings = self._of.get(parent, {})
        lineage = siblings.pop(pid, None)
        if lineage is None:
            return
        if not siblings:
            del self._of[parent]
        self._trees[lineage.root] -= 1
        if not self._trees[lineage.root]:
            del self._trees[lineage.root]

    # -- ends

    def _detach(self, parent: str, pid: str) -> None:
        lineage = self._of.get(parent, {}).get(pid)
        if lineage is None:
            return
        lineage.detached = True
        process = self._table.get(pid)
        if process is not None and not process.record.ended:
            process.record.detached = True
            self._log.commit([process.record])

    def _end(self, parent: str, pid: str, reason: str) -> None:
        if pid not in self._of.get(parent, {}):
            return
        process = self._table.get(pid)
        if process is not None:
            self._control.kill(process, reason)
        else:
            self._remove(parent, pid)
            self._launcher.give_up(pid, Terminated(reason))

    def _ended(self, process: Process) -> None:
        if process.record.parent:
            self._remove(process.record.parent, process.pid)
            self._tell(process)
        for pid, lineage in list(self._of.get(process.pid, {}).items()):
            if not lineage.detached:
                self._end(process.pid, pid, f"process {process.pid}, which launched it, has ended")

    def _tell(self, process: Process) -> None:
        """Its end, to the runner of its parent. One that cannot hear it now asks again when it is back."""
        record = process.record
        parent = self._table.get(record.parent)
        if parent is None or parent.record.ended or parent.runner is None:
            return
        if self._hub.owed(parent.runner.peer) > SLOW_BYTES:
            self._untold[record.pid] = process
            return
        result, error = "", record.error
        if error is None:
            events = self._log.read(record.pid, record.last_seq, events=1, size=0)
            if events:
                result = events[0].text
            else:
                error = Gone(f"the result of process {record.pid} is no longer kept").info()
        self._hub.send(parent.runner.peer, ChildEnded(record.parent, record.pid, result, error))

    def tick(self) -> None:
        """Tell what a slow runner was not told yet."""
        untold, self._untold = self._untold, {}
        for process in untold.values():
            self._tell(process)

    def _recover(self) -> None:
        """After a restart: those whose parent has ended, here or by being forgotten, end too."""
        orphans: list[Callable[[], None]] = []
        for process in self._table:
            record = process.record
            if not record.parent or record.ended:
                continue
            self._add(record.pid, lineage_of(process))
            parent = self._table.get(record.parent)
            if not record.detached and (parent is None or parent.record.ended):
                reason = f"process {record.parent}, which launched it, has ended"
                orphans.append(lambda process=process, reason=reason: self._control.kill(process, reason))
        for kill in orphans:
            kill()


def lineage_of(process: Process) -> Lineage:
    """As it stands in the record. The child's own capabilities are part of no lineage but its children's."""
    record = process.record
    return Lineage(
        record.parent,
        record.root,
        record.depth,
        detached=record.detached,
        capabilities=Capabilities(),
        allow=record.allow,
    )


def _exceeded(name: str, amount: int, what: str) -> LimitExceeded:
    return LimitExceeded(
        f"the program passed the limit {name} = {amount} ({what}); the operator can raise it (`{name}` of the gateway)"
    )
