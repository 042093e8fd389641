"""A process's events on the terminal: what it says to stdout, everything about it to stderr."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Protocol

import click
from pie_wire.errors import InternalError, PieError, from_info
from pie_wire.messages.common import Event

from pie_cli.received import SaveFolder


class Printer(Protocol):
    def show(self, event: Event) -> None:
        """Print one event. Raises the process's error at an `error` event."""
        ...


class TextPrinter:
    """Messages and stdout as they come, a message that is a JSON object on a line of its own. The return value only if
    the program sent no message, because those that do often return the same once more."""

    def __init__(self, save_to: Path | None = None) -> None:
        """Files are kept in folder `save_to`, if there is one."""
        self._folder = SaveFolder(save_to) if save_to is not None else None
        self._sent = False
        self._open_line = False

    def show(self, event: Event) -> None:
        match event.kind:
            case "message" | "stdout":
                self._sent |= event.kind == "message"
                own_line = event.kind == "message" and event.text.startswith("{") and event.text.endswith("}")
                self._write(event.text.encode() + b"\n" * own_line)
            case "binary":
                self._sent = True
                self._write(event.data)
            case "file":
                self._file(event)
            case "stderr":
                click.echo(event.text, nl=False, err=True)
            case "progress":
                click.secho(f"[{event.text}]", dim=True, err=True)
            case "gap":
                click.secho(f"[{event.text} events were dropped or are no longer kept]", fg="yellow", err=True)
            case "return":
                self.close()
                value = json.loads(event.text or "null")
                if not self._sent and value is not None:
                    self._write((value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)).encode())
                    self.close()
            case "error":
                self.close()
                raise process_error(event)
            case _:
                pass

    def _file(self, event: Event) -> None:
        size = f"{event.text}, {len(event.data)} bytes"
        if self._folder is None:
            click.secho(f"[file {size}: --save-to DIR keeps it]", dim=True, err=True)
            return
        try:
            path = self._folder.save(event.text, event.data)
        except PieError as exc:
            click.secho(f"[file {size}: not kept, {exc.message}]", fg="yellow", err=True)
        else:
            click.secho(f"[file {size}: {path}]", dim=True, err=True)

    def close(self) -> None:
        """End an open line, so that what follows begins on its own."""
        if self._open_line:
            self._write(b"\n")

    def _write(self, data: bytes) -> None:
        if data:
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
            self._open_line = not data.endswith(b"\n")


class JsonPrinter:
    """One JSON object per event and line: seq, kind, and text, value (of `return`), base64 or error; of a file name,
    size and base64, or with `save_to` its path."""

    def __init__(self, save_to: Path | None = None) -> None:
        self._folder = SaveFolder(save_to) if save_to is not None else None

    def show(self, event: Event) -> None:
        row = as_json(event)
        if event.kind == "file" and self._folder is not None:
            del row["base64"]
            row["path"] = str(self._folder.save(event.text, event.data))
        click.echo(json.dumps(row, ensure_ascii=False))
        if event.kind == "error":
            raise process_error(event)


def as_json(event: Event) -> dict[str, Any]:
    """An event as scripts get it."""
    row: dict[str, Any] = {"seq": event.seq, "kind": event.kind}
    if event.kind == "return":
        row["value"] = json.loads(event.text or "null")
    elif event.kind in ("binary", "file"):
        import base64

        if event.kind == "file":
            row |= {"name": event.text, "size": len(event.data)}
        row["base64"] = base64.b64encode(event.data).decode()
    elif event.kind == "error":
        error = process_error(event).info()
        row["error"] = {"code": error.code, "message": error.message, "retryable": error.retryable}
    elif event.text:
        row["text"] = event.text
    return row


def process_error(event: Event) -> PieError:
    """The typed error of an `error` event."""
    return from_info(event.error) if event.error is not None else InternalError("the process ended with an empty error")
