"""A kill in every host function that may park and in every kind of wait: the program ends, and what it held is free,
within 200 ms and the engine's step."""

from __future__ import annotations

import http.server
import json
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from attacks import RIGHTS, Attack
from message_store import Store
from pie_runner.process import Process
from pie_wire.messages.engine import ListAdapters
from pie_wire.messages.gateway import AskTool
from pie_wire.messages.runner import Deliver, Kill
from test_panics import held as held_by
from waits import CALLS, KINDS, SOURCE, WAITS, Case, parking, waitable

WITHIN = 0.2


@pytest.fixture(scope="module")
def silent() -> Iterator[int]:
    """The port of a server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture(scope="module")
def half() -> Iterator[int]:
    """The port of a server that answers, and sends no body."""
    over = threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-length", "10")
            self.end_headers()
            over.wait(60)

        def log_message(self, *_: object) -> None:
            """Nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield server.server_port
        over.set()
        server.shutdown()


def hold(attack: Attack, held: str, patch: pytest.MonkeyPatch) -> None:
    """From now on these do not answer."""
    world = attack.world
    world.engine.paused = held in ("engine", "flood")
    world.hold_offloads = held == "workers"
    world.gateway.consumes = held != "client"
    if held == "store":
        world.wires.cut.add("kvstore")
    if held == "flood":
        patch.setattr("pie_runner.engine_session.MAX_UNACKED_OPS", 2)
    if held == "late":
        world.wires.cut.add("late")
        world.add_engine("late")
    if held == "list":
        world.engine.hub.on(ListAdapters, lambda _: None)
    if held == "aside":
        patch.setattr(world.aside, "drain", lambda: None)


def let_go(attack: Attack, patch: pytest.MonkeyPatch) -> None:
    patch.undo()
    hold(attack, "", patch)
    attack.world.wires.cut.clear()


def is_free(attack: Attack, process: Process) -> bool:
    """Nothing is left here of a process."""
    runner = attack.world.runner
    counts = [len(runner.processes), runner.live, len(runner.timers), len(runner.children), len(process.waitables)]
    outside = [process.outside.requests_under_way, process.outside.tools._under_way]
    listening = runner.post._listening
    return not any(
        [*counts, *outside, *process.contexts, *held_by(process.usage), *attack.world.host.driver.fibers, *listening]
    )


def parked_call(attack: Attack) -> Any:
    """The call whose answer the program waits for, if it does."""
    found = [fiber.parked for fiber in attack.world.host.driver.fibers]
    return next((parked for parked in found if parked is not None and not parked.done), None)


def waits_in(attack: Attack, process: Process) -> set[str]:
    """The function that the program is parked in, and the kinds of what it waits for."""
    parked = parked_call(attack)
    if parked is None:
        return set()
    interface, name = parked.function._key
    function = f"{interface.rpartition('/')[2]}/{name.rpartition(']')[2]}"
    if function != "futures/wait-any":
        return {function}
    asked = process.waitables._parked
    items = [process.waitables._items[number] for number in asked[0]] if asked is not None else []
    return {function, *(kind for item in items for kind, made in KINDS.items() if type(item) is made)}


def test_none_is_missing():
    """Where this fails, `waits.py` needs a case of the function or the resource."""
    functions = {name.partition(" ")[0] for name in CALLS}

    assert functions == parking() - {"futures/wait-any"}
    assert {name.partition(" ")[0] for name in WAITS} == set(KINDS) == waitable()


def kill_in(attack: Attack, store: Store, name: str, case: Case, text: str) -> None:
    world, wanted = attack.world, name.partition(" ")[0]
    source = SOURCE.replace("{setup}", case.setup).replace("{body}", case.body).encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pie_runner.grammars.matcher.SLOW_SECONDS", -1.0)
        pid = attack.launch(source, text, "python", capabilities=RIGHTS, mcp=["house"])
        world.run(lambda: attack.said(pid, "started"))
        world.run(0.2)
        assert not world.ended(pid), world.log(pid)[-1]
        process = world.runner.processes[pid]
        hold(attack, case.held, patch)
        world.deliver(Deliver(pid, text="go"))
        world.run(lambda: attack.said(pid, "here") or world.ended(pid))
        assert not world.ended(pid), world.log(pid)[-1]
        world.run_in_real_time(lambda: world.ended(pid) or wanted in waits_in(attack, process))
        while not world.ended(pid):
            call = parked_call(attack)
            world.run(0.2)
            if call is not None and call is parked_call(attack):
                break  # and not one of those before it, which are answered
        assert not world.ended(pid), world.log(pid)[-1]
        assert wanted in waits_in(attack, process)
        began, worked = world.wires.now, time.thread_time()

        world.push(Kill(pid, "enough"))
        world.run(lambda: world.ended(pid) and is_free(attack, process), limit=WITHIN)
        let_go(attack, patch)
    world.run(lambda: (world.engine.contexts, world.engine.pages_owned) == (0, 0))

    assert attack.end(pid) == "terminated"
    assert world.wires.now - began <= WITHIN
    assert time.thread_time() - worked < WITHIN
    world.run(0.5)
    assert is_free(attack, process)
    assert store.topics._subscribed == {}
    world.engine.core.check_integrity()


@pytest.mark.parametrize("held", sorted({case.held for case in [*CALLS.values(), *WAITS.values()]}))
def test_a_kill_frees_everything_in_time(attack: Attack, store: Store, silent: int, half: int, held: str):
    attack.world.gateway.hub.on(AskTool, lambda _: None)
    attack.allow(cpu_seconds=30.0)  # lists of bytes are slow
    text = json.dumps({"port": silent, "half": half})

    for name, case in [*CALLS.items(), *WAITS.items()]:
        if case.held == held:
            try:
                kill_in(attack, store, name, case, text)
            except BaseException as exc:
                exc.add_note(f"in {name}")
                raise
