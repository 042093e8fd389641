"""`pie logs`: the services' logs, readable, in the order of their time."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from pathlib import Path

import click
from pie_wire.errors import NotFound

from pie_cli.log_files import LogLine, parse_line, tail
from pie_cli.paths import StackPaths

COLOURS = {"warning": "yellow", "error": "red", "critical": "red", "debug": "bright_black"}
FIELDS = frozenset({"event", "level", "timestamp", "service", "name"})
POLL = 0.2


@click.command()
@click.argument("services", nargs=-1, metavar="[SERVICE]...")
@click.option("--follow", "-f", is_flag=True, help="Go on showing new lines until Ctrl-C.")
@click.option("--lines", "-n", type=click.IntRange(0), default=50, show_default=True, help="Last lines of each log.")
@click.option("--json", "as_json", is_flag=True, help="Print the lines as the services wrote them.")
def logs(services: tuple[str, ...], follow: bool, lines: int, as_json: bool) -> None:
    """Show the logs of all services, or of those named (engine-0, runner-0, gateway, kvstore, supervisor)."""
    paths = StackPaths.default()
    there = sorted(path.stem for path in paths.logs.glob("*.log"))
    for service in services:
        if service not in there:
            raise NotFound(f"no log of {service!r} in {paths.logs}; there: {', '.join(there) or 'none'}")
    files = [paths.log(name) for name in services or there]
    if not files:
        raise NotFound(f"no logs in {paths.logs}: was Pie ever started here? Run `pie up`")
    positions = {path: path.stat().st_size for path in files}
    _show(((path, line) for path in files for line in tail(path, lines)), as_json)
    while follow:
        time.sleep(POLL)
        _show(_fresh(positions), as_json)


def _fresh(positions: dict[Path, int]) -> list[tuple[Path, str]]:
    """Whole lines added since the last call; a log that became shorter was rotated and is read from its start."""
    found: list[tuple[Path, str]] = []
    for path, position in positions.items():
        try:
            size = path.stat().st_size
            start = position if size >= position else 0
            if size == start:
                continue
            with path.open("rb") as file:
                file.seek(start)
                data = file.read(size - start)
        except FileNotFoundError:
            continue
        end = data.rfind(b"\n") + 1
        positions[path] = start + end
        found += [(path, line) for line in data[:end].decode(errors="replace").splitlines()]
    return found


def _show(lines: Iterable[tuple[Path, str]], as_json: bool) -> None:
    """Print lines by time; one without a time of its own stays behind the line before it."""
    stamped: list[tuple[str, str, str, LogLine | None]] = []
    last: dict[str, str] = {}
    for path, text in lines:
        parsed = parse_line(text)
        stamp = parsed.timestamp if parsed else last.get(path.stem, "")
        last[path.stem] = stamp
        stamped.append((stamp, path.stem, text, parsed))
    for _, name, text, parsed in sorted(stamped, key=lambda item: item[0]):
        click.echo(text if as_json else _readable(name, text, parsed))


def _readable(name: str, text: str, parsed: LogLine | None) -> str:
    label = click.style(f"{name:<10}", fg="cyan")
    if parsed is None:
        return f"{label} {text}"
    rest = {key: value for key, value in json.loads(text).items() if key not in FIELDS}
    details = " ".join(f"{key}={value}" for key, value in rest.items() if "\n" not in str(value))
    below = "".join(f"\n{value}" for value in rest.values() if "\n" in str(value))
    event = click.style(parsed.event, fg=COLOURS.get(parsed.level), bold=parsed.level in ("error", "critical"))
    return f"{parsed.timestamp[11:23]} {label} {event}  {click.style(details, dim=True)}{below}".rstrip()
