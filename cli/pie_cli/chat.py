"""`pie chat`: turn by turn with the chat program, which keeps the conversation's KV cache between turns."""

from __future__ import annotations

import json
import sys
from importlib import import_module
from typing import Any

import click
from pie_wire.errors import InternalError
from pie_zmq import Client, Process

from pie_cli.connect import CONNECT_TIMEOUT, gateway_endpoint
from pie_cli.stream import process_error

PROMPT = "\x01\x1b[1;36m\x02> \x01\x1b[0m\x02"
"""Bold cyan; the control characters tell readline which part has no width."""


@click.command()
@click.option("--program", default="chat", show_default=True, help="Program to talk with; see `pie programs`.")
@click.option("--system", help="What the model is told before the conversation.")
@click.option("--max-tokens", type=click.IntRange(1), default=512, show_default=True, help="Longest answer.")
@click.option("--temperature", type=click.FloatRange(0), help="0 is greedy.")
@click.option("--seed", type=int, help="Repeats the draws.")
@click.option("--once", metavar="TEXT", help="Say this, print the answer, leave.")
def chat(
    program: str, system: str | None, max_tokens: int, temperature: float | None, seed: int | None, once: str | None
) -> None:
    """Talk with the model. Ctrl-D or an empty line ends the conversation; so does Ctrl-C.

    When stdin is no terminal, each of its lines is one turn.
    """
    options: dict[str, Any] = {"max_tokens": max_tokens, "temperature": temperature, "seed": seed}
    options = {key: value for key, value in options.items() if value is not None}
    messages = [{"role": "system", "content": system}] if system else []
    try:
        with Client(gateway_endpoint(), connect_timeout=CONNECT_TIMEOUT) as client:
            _converse(client, program, {**options, "messages": messages, "interactive": once is None}, once)
    except KeyboardInterrupt:
        click.echo(err=True)


def _converse(client: Client, program: str, options: dict[str, Any], once: str | None) -> None:
    if once is None and sys.stdin.isatty():
        click.secho("Ctrl-D ends the conversation.", dim=True, err=True)
    said = once if once is not None else _read_turn()
    if not said:
        return
    options["messages"].append({"role": "user", "content": said})
    process = client.launch(program, options, on_disconnect="terminate")
    while True:
        _show_answer(process)
        if once is not None:
            return
        said = _read_turn()
        process.signal(said)
        if not said:
            return


def _show_answer(process: Process) -> None:
    """Print deltas until the answer's end. Raises the program's error."""
    for event in process.events():
        if event.kind == "message":
            piece = _decode(event.text)
            if "delta" in piece:
                sys.stdout.write(str(piece["delta"]))
                sys.stdout.flush()
            elif "end" in piece:
                break
        elif event.kind == "stderr":
            click.echo(event.text, nl=False, err=True)
        elif event.kind == "error":
            click.echo()
            raise process_error(event)
    click.echo()


def _decode(text: str) -> dict[str, Any]:
    try:
        return dict(json.loads(text))
    except (ValueError, TypeError) as exc:
        raise InternalError(f"the program does not speak like a chat: {text[:80]!r}") from exc


def _read_turn() -> str:
    """The next line from the user; empty at the end."""
    if not sys.stdin.isatty():
        return sys.stdin.readline().strip()
    import_module("readline")  # gives `input` its editing and history
    try:
        return input(PROMPT).strip()
    except EOFError:
        click.echo(err=True)
        return ""
