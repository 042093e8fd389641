"""What operators ask: which services are there, which models, who holds the pages."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pie_wire.membership import Membership
from pie_wire.messages.common import MemberInfo, ModelFacts
from pie_wire.messages.gateway import DeadMessages, Pages, PagesReport, Purge, Status, StatusReport, Topics
from pie_wire.messages.kvstore import ListDead, ListMembers, ListPages, ListTopics, PurgeTopic

from pie_gateway.session import Call
from pie_gateway.store import Store
from pie_gateway.table import ProcessTable


class Reports:
    """`http` gives the address of the HTTP front, empty without one."""

    def __init__(self, table: ProcessTable, store: Store, membership: Membership, http: Callable[[], str]) -> None:
        self._table = table
        self._store = store
        self._membership = membership
        self._http = http

    def status(self, call: Call[Status]) -> None:
        """From kvstore; while it is away, from the last list it sent."""

        def answer(members: Sequence[MemberInfo]) -> None:
            models = models_of(members)
            call.reply(StatusReport(list(members), models, self._http(), self._table.live_count))

        if not self._store.is_up:
            answer(self._membership.members)
            return
        self._store.ask(ListMembers(), lambda r: answer(r.members), lambda _: answer(self._membership.members))

    def pages(self, call: Call[Pages]) -> None:
        self._store.ask(ListPages(), lambda r: call.reply(PagesReport(r.engines)), call.fail, scope=call.scope)

    def topics(self, call: Call[Topics]) -> None:
        self._store.ask(ListTopics(), call.reply, call.fail, scope=call.scope)

    def dead_messages(self, call: Call[DeadMessages]) -> None:
        self._store.ask(ListDead(call.message.topic), call.reply, call.fail, scope=call.scope)

    def purge(self, call: Call[Purge]) -> None:
        request = PurgeTopic(call.message.topic, call.message.waiting)
        self._store.ask(request, call.reply, call.fail, scope=call.scope)


def models_of(members: Sequence[MemberInfo]) -> list[ModelFacts]:
    """One entry per model name that some live engine serves."""
    models: dict[str, ModelFacts] = {}
    for member in members:
        if member.kind == "engine" and member.state != "lost" and (name := str(member.info.get("model", ""))):
            info = member.info
            models.setdefault(
                name,
                ModelFacts(
                    name=name,
                    vocab=int(info.get("vocab", 0)),
                    max_context=int(info.get("max_context", 0)),
                    page_size=int(info.get("page_size", 16)),
                    dtype=str(info.get("dtype", "")),
                    backend=str(info.get("backend", "")),
                    device=str(info.get("device", "")),
                ),
            )
    return list(models.values())
