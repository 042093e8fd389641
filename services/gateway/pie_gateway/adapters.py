"""Adapters as operators see them: one name for all engines of a model, loaded, listed and unloaded on each of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from pie_wire.errors import BadRequest, Forbidden, NotFound, PieError, Unavailable
from pie_wire.hub import Answer, Hub
from pie_wire.messages.base import Message, Request
from pie_wire.messages.common import MemberInfo
from pie_wire.messages.engine import AdapterInfo, AdapterList, ListAdapters, LoadAdapter, UnloadAdapter
from pie_wire.messages.gateway import (
    AdapterReport,
    EngineAdapters,
    ListModelAdapters,
    LoadModelAdapter,
    UnloadModelAdapter,
)

from pie_gateway.config import GatewayConfig
from pie_gateway.session import Call

PORT_PREFIX = "engine:"
LIST_SECONDS = 10.0
LOAD_SECONDS = 300.0
"""Reading a large adapter from a slow disk."""

M = TypeVar("M", bound=Message)
R = TypeVar("R", bound=Message)


class Dialer(Protocol):
    """Opens and closes the sockets below the hub's ports."""

    def dial(self, port: str, endpoint: str) -> None: ...

    def hang_up(self, port: str) -> None: ...


@dataclass(frozen=True)
class _Engine:
    name: str
    model: str
    endpoint: str


class Adapters:
    """Follows the member list; keeps a link to every engine. Nothing else of the gateway speaks with engines."""

    def __init__(self, config: GatewayConfig, hub: Hub, dialer: Dialer | None) -> None:
        self._config = config
        self._hub = hub
        self._dialer = dialer
        self._engines: dict[str, _Engine] = {}

    def members(self, members: Sequence[MemberInfo]) -> None:
        """The member list changed."""
        found = {
            m.name: _Engine(m.name, str(m.info.get("model", "")), m.endpoint)
            for m in members
            if m.kind == "engine" and m.state != "lost" and m.endpoint
        }
        before, self._engines = self._engines, found
        if self._dialer is not None:
            for name in before.keys() - found.keys():
                self._dialer.hang_up(PORT_PREFIX + name)
            for name, engine in found.items():
                if name not in before or before[name].endpoint != engine.endpoint:
                    self._dialer.dial(PORT_PREFIX + name, engine.endpoint)

    def tick(self) -> None:
        """Remake links that were given up."""
        if self._dialer is not None:
            for name, engine in self._engines.items():
                if self._hub.peer(PORT_PREFIX + name) is None:
                    self._dialer.dial(PORT_PREFIX + name, engine.endpoint)

    def list(self, call: Call[ListModelAdapters]) -> None:
        """Versions that engines hold. Raises NotFound, Unavailable."""
        self._on_each(call, call.message.model, ListAdapters(), _listed, LIST_SECONDS)

    def load(self, call: Call[LoadModelAdapter]) -> None:
        """Read an adapter on each engine of the model. Raises Forbidden, NotFound, Unavailable, BadRequest."""
        self._check_allowed()
        message = call.message
        if not message.folder.startswith("/"):
            raise BadRequest(f"the folder {message.folder!r} must be absolute: engines read it where they run")

        def loaded(engine: _Engine, answer: AdapterInfo) -> EngineAdapters:
            return EngineAdapters(engine.name, engine.model, [answer])

        self._on_each(call, message.model, LoadAdapter(message.name, message.folder), loaded, LOAD_SECONDS)

    def unload(self, call: Call[UnloadModelAdapter]) -> None:
        """Take an adapter away on each engine of the model. Raises Forbidden, NotFound, Unavailable."""
        self._check_allowed()
        self._on_each(call, call.message.model, UnloadAdapter(call.message.adapter), _listed, LIST_SECONDS)

    def _on_each(
        self,
        call: Call[M],
        model: str,
        request: Request[R],
        read: Callable[[_Engine, R], EngineAdapters],
        timeout: float,
    ) -> None:
        """Ask every engine of the model; answer with a row for each, or with the error if none did it."""
        engines = [e for _, e in sorted(self._engines.items()) if not model or e.model == model]
        if not engines and model:
            raise NotFound(f"no engine serves a model called {model!r}: see `pie status`")
        if not engines:
            raise Unavailable("no engine is there: is one running? see `pie status`")
        rows: dict[str, EngineAdapters] = {}
        errors: list[PieError] = []

        def done(engine: _Engine, row: EngineAdapters) -> None:
            rows[engine.name] = row
            if len(rows) < len(engines):
                return
            if len(errors) == len(engines):
                call.fail(errors[0])
            else:
                call.reply(AdapterReport([rows[e.name] for e in engines]))

        def failed(engine: _Engine, error: PieError) -> None:
            errors.append(error)
            done(engine, EngineAdapters(engine.name, engine.model, [], error=error.info()))

        def ask(engine: _Engine) -> None:
            def answered(answer: Answer[R]) -> None:
                if answer.error is None:
                    done(engine, read(engine, answer.value()))
                else:
                    failed(engine, answer.error)

            try:
                self._hub.request(PORT_PREFIX + engine.name, request, answered, timeout=timeout)
            except PieError as exc:
                failed(engine, exc)

        for engine in engines:
            ask(engine)

    def _check_allowed(self) -> None:
        if not self._config.clients_load_adapters:
            raise Forbidden(
                "clients of this gateway may not load or unload adapters: the operator allows it with "
                "`client_adapters = on` of the gateway"
            )


def _listed(engine: _Engine, answer: AdapterList) -> EngineAdapters:
    return EngineAdapters(engine.name, engine.model, answer.adapters, answer.used, answer.limit)
