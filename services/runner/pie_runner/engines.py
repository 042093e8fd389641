"""The engines this runner is linked to, and which of them a process uses."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Protocol

import structlog
from pie_wire.errors import EngineLost, NotFound, PieError, ProtocolError, Unavailable, to_error
from pie_wire.hub import Answer, Hub, Incoming, Peer
from pie_wire.messages.common import MemberInfo
from pie_wire.messages.engine import GetModel, ModelReply
from pie_wire.messages.runner import Step

from pie_runner.engine_session import Session
from pie_runner.models import Model, load_model, model_key

if TYPE_CHECKING:
    from pie_runner.process import Process

PORT_PREFIX = "engine:"
MODEL_TIMEOUT = 30.0
RETRY_AFTER = 1.0

log = structlog.get_logger("pie.engines")


class Offload(Protocol):
    """Runs `work` where it does not hold up the loop, then `then(result, error)` on the loop."""

    def __call__(self, work: Callable[[], object], then: Callable[[object, Exception | None], None]) -> None: ...


class Dialer(Protocol):
    """Opens and closes the sockets below the hub's ports."""

    def dial(self, port: str, endpoint: str) -> None: ...

    def hang_up(self, port: str) -> None: ...


@dataclass(eq=False)
class EngineLink:
    """One engine by its member name, across its restarts."""

    name: str
    endpoint: str
    peer: Peer | None = None
    session: Session | None = None
    model: Model | None = None
    """Kept when the engine dies: programs then get `engine_lost` instead of an unknown model."""
    homes: int = 0
    """Processes that use this engine."""
    retry_at: float | None = None


@dataclass(eq=False)
class _Waiter:
    name: str
    deadline: float
    then: Callable[[Model | None, PieError | None], None]


class Engines:
    """Follows the member list; loads each engine's model; gives each process its home engine for life."""

    def __init__(self, hub: Hub, dialer: Dialer, offload: Offload) -> None:
        self._hub = hub
        self._dialer = dialer
        self._offload = offload
        self._links: dict[str, EngineLink] = {}
        self._listed: set[str] = set()
        self._context_ids = itertools.count(1)
        self._waiters: list[_Waiter] = []
        self._cache: dict[bytes, Model] = {}
        hub.on_up(self._up)
        hub.on_down(self._down)
        hub.on(Step, self._step)

    # -- for programs

    def names(self) -> list[str]:
        """Names of the loaded models, the default one first."""
        links = sorted(self._links.values(), key=lambda link: link.name)
        return list(dict.fromkeys(link.model.name for link in links if link.model is not None))

    def find(self, name: str) -> Model | None:
        """A loaded model by name; the empty name means the default one."""
        names = self.names()
        wanted = name or (names[0] if names else "")
        links = [link for link in self._links.values() if link.model is not None and link.model.name == wanted]
        live = [link for link in links if link.session is not None] or links
        return live[0].model if live else None

    def when_loaded(
        self, name: str, timeout: float, then: Callable[[Model | None, PieError | None], None]
    ) -> Callable[[], None]:
        """Call with the model, now or when it is there; with NotFound once nothing can bring it, at latest after
        `timeout` seconds. Returns how to forget the question."""
        waiter = _Waiter(name, self._hub.clock() + timeout, then)
        self._waiters.append(waiter)
        self._answer_waiters()

        def forget() -> None:
            if waiter in self._waiters:
                self._waiters.remove(waiter)

        return forget

    def session(self, process: Process, model: str) -> Session:
        """The live session with the process's home engine for a model, chosen at first use: the one it was launched
        near to, else the one with the fewest processes of this runner.

        Raises:
            EngineLost: that engine is not there now.
        """
        home = process.homes.get(model)
        if home is None:
            candidates = [
                link
                for link in self._links.values()
                if link.session is not None and link.model is not None and link.model.name == model
            ]
            if not candidates:
                raise EngineLost(f"no engine serves {model!r} now: try again when it is back")
            link = min(candidates, key=lambda link: (link.name != process.near, link.homes, link.name))
            link.homes += 1
            process.homes[model] = link.name
        else:
            link = self._links.get(home)
        if link is None or link.session is None:
            raise EngineLost(f"engine {home} is not there: contexts can be made again when it is back")
        return link.session

    def release(self, process: Process) -> None:
        """The process has ended."""
        for name in process.homes.values():
            if name in self._links:
                self._links[name].homes -= 1
        process.homes.clear()

    # -- for the core

    def update(self, members: list[MemberInfo]) -> None:
        """The member list changed."""
        engines = {m.name: m for m in members if m.kind == "engine" and m.state != "lost" and m.endpoint}
        self._listed = set(engines)
        for name, member in engines.items():
            link = self._links.setdefault(name, EngineLink(name, ""))
            if link.endpoint != member.endpoint:
                link.endpoint = member.endpoint
                self._dialer.dial(PORT_PREFIX + name, member.endpoint)

    def tick(self) -> None:
        """Retry, and forget engines that are neither listed nor linked nor anybody's home."""
        now = self._hub.clock()
        for link in list(self._links.values()):
            if link.name not in self._listed and link.peer is None and link.homes <= 0:
                del self._links[link.name]
                self._dialer.hang_up(PORT_PREFIX + link.name)
            elif link.peer is not None and link.retry_at is not None and now >= link.retry_at:
                link.retry_at = None
                self._ask(link, link.peer)
            elif link.peer is None and link.name in self._listed:
                self._dialer.dial(PORT_PREFIX + link.name, link.endpoint)  # remakes a port that was closed
        self._answer_waiters()

    def drain(self) -> None:
        """Take what came for runs that are drained: before programs run, which may take long."""
        for session in self._sessions():
            session.drain()

    def flush(self) -> None:
        """End of a loop turn."""
        for session in self._sessions():
            session.flush()

    def wasted(self) -> int:
        """Tokens decoded and not consumed, over the living sessions."""
        return sum(session.wasted for session in self._sessions())

    def _sessions(self) -> Iterator[Session]:
        """The living ones."""
        return (link.session for link in self._links.values() if link.session is not None)

    # -- links

    def _link_of(self, peer: Peer) -> EngineLink | None:
        return self._links.get(peer.port.removeprefix(PORT_PREFIX)) if peer.port.startswith(PORT_PREFIX) else None

    def _up(self, peer: Peer) -> None:
        link = self._link_of(peer)
        if link is not None:
            link.peer = peer
            link.retry_at = None  # of an earlier incarnation: asking this one twice would open two sessions
            self._ask(link, peer)

    def _down(self, peer: Peer, cause: PieError) -> None:
        link = self._link_of(peer)
        if link is None or link.peer is not peer:
            return
        link.peer = None
        session, link.session = link.session, None
        if session is not None:
            log.warning("engine lost", engine=link.name, reason=cause.message)
            session.end(EngineLost(f"engine {link.name} was lost ({cause.message}): its contexts are gone"))

    def _ask(self, link: EngineLink, peer: Peer) -> None:
        self._hub.request(peer, GetModel(), partial(self._got_model, link, peer), timeout=MODEL_TIMEOUT)

    def _got_model(self, link: EngineLink, peer: Peer, answer: Answer[ModelReply]) -> None:
        if link.peer is not peer:
            return
        if answer.error is not None:
            log.warning("engine does not tell its model", engine=link.name, reason=answer.error.message)
            link.retry_at = self._hub.clock() + RETRY_AFTER
            return
        reply = answer.value()
        files = {name: bytes(data) for name, data in zip(reply.files, answer.buffers, strict=False)}
        key = model_key(reply.facts, files)
        cached = self._cache.get(key)
        if cached is not None:
            self._open(link, peer, cached)
        else:
            self._offload(lambda: load_model(reply.facts, files), partial(self._loaded, link, peer, key))

    def _loaded(self, link: EngineLink, peer: Peer, key: bytes, model: object, error: Exception | None) -> None:
        if not isinstance(model, Model):
            reason = to_error(error or Unavailable("no model came")).message
            log.error("cannot load the model's tokenizer", engine=link.name, reason=reason)
            if link.peer is peer:
                link.retry_at = self._hub.clock() + 10 * RETRY_AFTER
            return
        self._cache[key] = model
        self._open(link, peer, model)

    def _open(self, link: EngineLink, peer: Peer, model: Model) -> None:
        if link.peer is peer and link.session is None:
            link.model = model
            link.session = Session(self._hub, peer, model, self._context_ids)
            used = {id(other.model) for other in self._links.values()}
            self._cache = {key: kept for key, kept in self._cache.items() if id(kept) in used}
            log.info("engine ready", engine=link.name, model=model.name)
            self._answer_waiters()

    def _step(self, incoming: Incoming[Step]) -> None:
        link = self._link_of(incoming.peer)
        if link is not None and link.session is not None and link.session.peer is incoming.peer:
            step = incoming.message
            if len(step.runs) != len(step.counts) or sum(step.counts) != len(step.tokens):
                self._hub.lost(incoming.peer, ProtocolError(f"engine {link.name} sent columns that do not fit"))
                return
            link.session.on_step(step, incoming.buffers)

    def _answer_waiters(self) -> None:
        now = self._hub.clock()
        for waiter in list(self._waiters):
            model = self.find(waiter.name)
            coming = any(link.model is None for link in self._links.values()) or not self._links
            if model is None and coming and now < waiter.deadline:
                continue
            self._waiters.remove(waiter)
            if model is not None:
                waiter.then(model, None)
            elif known := ", ".join(self.names()):
                waiter.then(None, NotFound(f"no model is called {waiter.name!r}; loaded: {known}"))
            else:
                waiter.then(None, Unavailable("no engine serves a model now: is one running? see `pie status`"))
