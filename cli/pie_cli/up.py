"""`pie up`: start a stack in the foreground or, detached, in a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

import click
from pie_wire.errors import NotFound, PieError, Unavailable, Unsupported
from rich.console import Console

from pie_cli.log_files import tail
from pie_cli.paths import StackPaths
from pie_cli.plan import StackPlan, plan_stack
from pie_cli.probe import Probe
from pie_cli.state import StackState, is_up, read_state, running
from pie_cli.supervisor import START_TIMEOUT, Supervisor
from pie_cli.up_display import UpDisplay

DEFAULT_MODEL = "smollm2"
REVIVE_TIMEOUT = 120.0


@click.command()
@click.option(
    "--model",
    envvar="PIE_MODEL",
    default=DEFAULT_MODEL,
    show_default=True,
    help="Name in `pie model list`, path:DIR, or scripted:FILE. [env: PIE_MODEL]",
)
@click.option(
    "--runners", type=click.IntRange(1, 64), default=1, show_default=True, help="Processes that run programs."
)
@click.option(
    "--runner-for",
    "runners_for",
    metavar="TENANT",
    multiple=True,
    help="One more runner, dedicated to this tenant; again for more. See docs/operations.md.",
)
@click.option("--http-port", type=click.IntRange(0, 65535), help="Port of the HTTP front; 0 picks a free one.")
@click.option("--detach", "-d", is_flag=True, help="Return when the stack is ready, and leave it running.")
@click.option("--foreground", is_flag=True, help="Stay until Ctrl-C. This is the default.")
def up(
    model: str, runners: int, runners_for: tuple[str, ...], http_port: int | None, detach: bool, foreground: bool
) -> None:
    """Start a stack, or start again what died of it.

    Sockets, logs and data lie in PIE_HOME; another PIE_HOME is another stack. With REDIS_URL set, that Redis is used.
    """
    if detach and foreground:
        raise click.UsageError("--detach and --foreground exclude each other")
    paths = StackPaths.default()
    paths.make()
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    if is_up(paths):
        _join_running(paths, console)
        return
    folder = _model_folder(model, console)
    _prepare_runtime(paths, console)
    if detach:
        _detached(paths, console, model, runners, runners_for, http_port)
        return
    plan = plan_stack(
        paths, model=model, model_folder=folder, runners=runners, http_port=http_port, runners_for=runners_for
    )
    _foreground(plan, paths, console)


def _foreground(plan: StackPlan, paths: StackPaths, console: Console) -> None:
    from pie_cli.builtins import install_builtins

    console.print(f"Starting Pie in {paths.home}")
    display = UpDisplay(console, hint="Ctrl-C, or `pie down` elsewhere")
    Supervisor(plan, paths, display, install_builtins).run()


def _detached(
    paths: StackPaths, console: Console, model: str, runners: int, runners_for: Sequence[str], http_port: int | None
) -> None:
    """Start `pie up` as a session of its own and follow its state file until it is ready."""
    command = [sys.executable, "-m", "pie_cli", "up", "--model", model, "--runners", str(runners)]
    command += [word for tenant in runners_for for word in ("--runner-for", tenant)]
    if http_port is not None:
        command += ["--http-port", str(http_port)]
    console.print(f"Starting Pie in {paths.home}")
    log = paths.log("supervisor")
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        state = _follow(paths, console, process)
    except KeyboardInterrupt:
        console.print("Stopping ...")
        process.send_signal(signal.SIGTERM)
        process.wait()
        raise
    if state is None:
        last = " ".join(tail(log, 1)) or "no word of why"
        raise Unavailable(f"the supervisor ended: {last}; see {log}")
    if state.phase != "ready":
        raise Unavailable(f"{state.error or 'the stack was stopped while it started'}; see `pie logs`")


def _follow(paths: StackPaths, console: Console, process: subprocess.Popen[bytes]) -> StackState | None:
    """Show progress until the supervisor is ready or has ended; its last state, None if it wrote none."""
    display = UpDisplay(console, hint="pie down")
    shown: dict[str, str] = {}
    probe: Probe | None = None
    deadline = time.monotonic() + START_TIMEOUT + 30.0
    try:
        while time.monotonic() < deadline:
            state = read_state(paths)
            if state is None or state.supervisor != process.pid:
                if process.poll() is not None:
                    return None
                time.sleep(0.05)
                continue
            if probe is None:
                probe = Probe(state.kvstore)
            probe.poll(0.05, eager=True)
            for service in state.services:
                member = probe.find(service.name, service.pid)
                if shown.get(service.name) != service.state and (service.state != "ready" or member is not None):
                    shown[service.name] = service.state
                    display.changed(service, member)
            if state.phase == "ready" and all(shown.get(s.name) == "ready" for s in state.services):
                display.installed(state.programs)
                display.ready(state)
                return state
            if process.poll() is not None:
                display.stopping()
                return read_state(paths)
            display.turn([s.name for s in state.services if s.state != "ready"] or ["programs"])
    finally:
        if probe is not None:
            probe.close()
    raise Unavailable("the stack did not become ready in time; see `pie logs`")


def _join_running(paths: StackPaths, console: Console) -> None:
    """The stack is up: start again what died of it, and say how it stands."""
    state = running(paths)
    if state is None or state.phase == "stopping":
        raise Unavailable("the stack is just being stopped: try again in a moment")
    if state.phase == "starting":
        console.print(f"Pie is starting already (pid {state.supervisor}): waiting for it ...")
        state = _await_ready(paths, [s.name for s in state.services])
    dead = [s.name for s in state.services if s.state in ("failed", "waiting")]
    if dead:
        os.kill(state.supervisor, signal.SIGUSR1)
        console.print(f"Pie is up, without {', '.join(dead)}: starting again ...")
        state = _await_ready(paths, dead)
    where = f"; HTTP at {state.http}" if state.http else ""
    console.print(f"Pie is already up with {state.model} (pid {state.supervisor}){where}")


def _await_ready(paths: StackPaths, names: Sequence[str]) -> StackState:
    deadline = time.monotonic() + REVIVE_TIMEOUT
    revived = False
    while time.monotonic() < deadline:
        state = running(paths)
        if state is None:
            last = read_state(paths)
            raise Unavailable(last.error if last and last.error else "the stack was stopped meanwhile")
        mine = [s for s in state.services if s.name in names]
        revived = revived or any(s.state == "starting" for s in mine)
        if all(s.state == "ready" for s in mine) and state.phase == "ready":
            return state
        if revived and (failed := [s for s in mine if s.state == "failed"]):
            raise Unavailable(f"{failed[0].name} {failed[0].error}; see `pie logs {failed[0].name}`")
        time.sleep(0.1)
    raise Unavailable(f"{', '.join(names)} did not come back in {REVIVE_TIMEOUT:g} s; see `pie logs`")


def _prepare_runtime(paths: StackPaths, console: Console) -> None:
    """What Python programs run in: made once. Without the toolchain for it components run all the same."""
    from pie_bakery.python_runtime import PythonRuntime, prepare_python_runtime

    try:
        if PythonRuntime.current(paths.home).wasm.exists():
            return
        prepare_python_runtime(paths.home, lambda line: console.print(line, markup=False))
    except Unsupported as exc:
        console.print(f"Python programs will not run: {exc.message}", style="yellow", markup=False)


def _model_folder(model: str, console: Console) -> str:
    """Where the engine finds the model. The default one is pulled when it is not there yet."""
    from pie_cli.model_store import ModelStore, resolve

    if model.startswith("scripted:"):
        return model
    try:
        return str(resolve(model))
    except NotFound:
        if model != DEFAULT_MODEL:
            raise
    from pie_cli.model_sources import parse_source
    from pie_cli.steps import Steps

    console.print(f"{model} is not here yet: getting it")
    try:
        return str(ModelStore.default().pull(parse_source(model), Steps(console)))
    except PieError as exc:
        raise Unavailable(f"cannot get {model}: {exc.message}", cause=exc.code) from exc
