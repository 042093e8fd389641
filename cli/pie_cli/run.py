"""`pie run`: launch a program, by name or from a file, and stream its events."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click
from pie_wire.capabilities import Grants
from pie_wire.errors import BadField, NotFound, PieError, Terminated

from pie_cli.allow import parse_allow
from pie_cli.main import INTERRUPTED
from pie_cli.program_input import parse_input

if TYPE_CHECKING:
    from pie_zmq import AsyncProcess


class RunCommand(click.Command):
    """Says where the program's own arguments belong when they are met among `pie run`'s."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as exc:
            raise click.UsageError(
                f"no such option: {exc.option_name}. The program's own arguments go behind `--`: "
                "pie run NAME -- --key value",
                ctx,
            ) from exc


@click.command(cls=RunCommand)
@click.argument("program", metavar="NAME|FILE")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[-- --KEY VALUE...]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per event.")
@click.option("--detach", "-d", is_flag=True, help="Print the process id and return; see `pie attach`.")
@click.option(
    "--allow",
    multiple=True,
    metavar="CAPABILITY",
    help="Grant it, where the operator lets users: http=HOST[:PORT], fs, mcp=NAME, children. Repeatable.",
)
@click.option(
    "--send",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Send it to the program's session.receive_file. Repeatable.",
)
@click.option(
    "--save-to",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Keep the files that the program sends in this folder.",
)
@click.option("--near", default="", metavar="SNAPSHOT", help="Run it on the engine that has this snapshot's KV.")
@click.option("--input", "-i", "input_file", type=click.File("r"), help="Read the JSON input from a file; - is stdin.")
def run(
    program: str,
    arguments: Sequence[str],
    as_json: bool,
    detach: bool,
    allow: Sequence[str],
    send: Sequence[Path],
    save_to: Path | None,
    near: str,
    input_file: TextIO | None,
) -> None:
    """Run a program and stream what it says.

    NAME or NAME@VERSION is an installed program; a .py or .wasm FILE (or a folder with one) is uploaded and run as it
    is. Arguments behind -- are its input: `--max-tokens 8` is {"max_tokens": 8}, numbers and booleans are parsed, a
    repeated key is a list, a key without value is true, and `--json '{...}'` is a whole input.

    Ctrl-C ends the program; a second one leaves at once. Exit status 1: the program failed.
    """
    value = parse_input(arguments, _read(input_file) if input_file is not None else "")
    from pie_cli.connect import run_async

    grants = parse_allow(allow)
    run_async(_run(program, value, grants, as_json=as_json, detach=detach, send=send, save_to=save_to, near=near))


async def _run(
    program: str,
    value: Any,
    grants: Grants,
    *,
    as_json: bool,
    detach: bool,
    send: Sequence[Path],
    save_to: Path | None,
    near: str,
) -> None:
    from pie_cli.connect import connected
    from pie_cli.stream import JsonPrinter, TextPrinter

    async with connected() as client:
        path = as_file(program)
        leave = "continue" if detach else "terminate"
        options: dict[str, Any] = {"attach": not detach, "on_disconnect": leave, "allow": grants, "near": near}
        if path is not None:
            process = await client.run_file(path, value, **options)
        else:
            process = await client.launch(program, value, **options)
        sending = asyncio.ensure_future(_send_all(process, send))
        if detach:
            await sending
            click.echo(json.dumps({"pid": process.pid}) if as_json else process.pid)
            return
        ending: set[asyncio.Task[None]] = set()

        def interrupt() -> None:
            if ending:
                os._exit(INTERRUPTED)
            click.secho("\nending the program (Ctrl-C again to leave it behind)", dim=True, err=True)
            ending.add(asyncio.ensure_future(terminate()))

        async def terminate() -> None:
            try:
                await process.terminate("interrupted from the terminal")
            except PieError as exc:
                click.secho(f"it could not be ended: {exc.message}", fg="yellow", err=True)

        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGINT, interrupt)
        printer = JsonPrinter(save_to) if as_json else TextPrinter(save_to)
        try:
            async for event in process.events():
                printer.show(event)
        except Terminated:
            if not ending:
                raise
            raise click.exceptions.Exit(INTERRUPTED) from None
        finally:
            sending.cancel()


async def _send_all(process: AsyncProcess, files: Sequence[Path]) -> None:
    """One after the other, in the order of the command line. A program that ends without having received them all is no
    error."""
    for path in files:
        try:
            await process.send_file(path.name, await asyncio.to_thread(path.read_bytes))
        except OSError as exc:
            click.secho(f"{path} was not sent: {exc.strerror}", fg="yellow", err=True)
        except PieError as exc:
            if process.outcome is None:
                click.secho(f"{path} was not sent: {exc.message}", fg="yellow", err=True)


def as_file(program: str) -> Path | None:
    """The file or folder that the user means, None if it is a name. Raises NotFound for what can only be a path."""
    path = Path(program).expanduser()
    looks_like_path = os.sep in program or path.suffix in (".py", ".wasm")
    if looks_like_path and not path.exists():
        raise NotFound(f"no file {program}")
    return path if looks_like_path else None


def _read(file: TextIO) -> str:
    try:
        return file.read()
    except UnicodeDecodeError as exc:
        raise BadField("the input file is not text") from exc
