"""`pie`: the command. Subcommands are imported only when they run, so that `pie --help` is quick."""

from __future__ import annotations

import importlib
import sys
from typing import NamedTuple

import click
from click.shell_completion import CompletionItem

INTERRUPTED = 130
"""Exit status of a command that was ended by Ctrl-C, as shells have it."""


class Entry(NamedTuple):
    """Where a subcommand lives, and its line in the list."""

    module: str
    attribute: str
    summary: str


COMMANDS: dict[str, dict[str, Entry]] = {
    "Stack": {
        "up": Entry("pie_cli.up", "up", "Start a stack, or start again what died of it."),
        "down": Entry("pie_cli.down", "down", "Stop the stack."),
        "status": Entry("pie_cli.status", "status", "Show every service, its health and load."),
        "logs": Entry("pie_cli.logs", "logs", "Show the services' logs."),
        "doctor": Entry("pie_cli.doctor", "doctor", "Check this machine; name the fix for what is missing."),
    },
    "Programs": {
        "run": Entry("pie_cli.run", "run", "Run a program and stream what it says."),
        "chat": Entry("pie_cli.chat", "chat", "Talk with the model."),
        "ps": Entry("pie_cli.ps", "ps", "List processes."),
        "attach": Entry("pie_cli.ps", "attach", "Follow a process from any of its events on."),
        "kill": Entry("pie_cli.ps", "kill", "End a process."),
        "pages": Entry("pie_cli.pages", "pages", "Show who holds the KV cache."),
        "topics": Entry("pie_cli.topics", "topics_group", "Show queues of messages between programs."),
        "programs": Entry("pie_cli.programs", "programs", "List installed programs."),
        "install": Entry("pie_cli.programs", "install", "Install a program from its folder."),
    },
    "Authoring": {
        "new": Entry("pie_bakery.commands", "new", "Begin a program, in a folder of its own."),
        "build": Entry("pie_bakery.commands", "build", "Build a program's folder into a component."),
        "check": Entry("pie_bakery.commands", "check", "Check a component against what this version offers."),
    },
    "Set-up": {
        "model": Entry("pie_cli.model_store", "model_group", "Get, list and remove models."),
        "adapter": Entry("pie_cli.adapters", "adapter_group", "Load, list and unload LoRA adapters."),
        "runtime": Entry("pie_cli.runtime", "runtime", "Prepare the runtime of Python programs."),
        "bench": Entry("pie_bench.cli", "bench", "Measure a running stack."),
        "completion": Entry("pie_cli.completion", "completion", "Print the completion script of a shell."),
    },
}
ENTRIES = {name: entry for section in COMMANDS.values() for name, entry in section.items()}


class PieGroup(click.Group):
    """Finds subcommands by name, shows typed errors as one line."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(ENTRIES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = ENTRIES.get(cmd_name)
        if entry is None:
            return None
        command = getattr(importlib.import_module(entry.module), entry.attribute)
        if not isinstance(command, click.Command):
            raise click.ClickException(f"{entry.module}.{entry.attribute} is no command")
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in ENTRIES and not args[0].startswith("-"):
            import difflib

            close = difflib.get_close_matches(args[0], ENTRIES, 1)
            hint = f"Did you mean `pie {close[0]}`?" if close else "See `pie --help`."
            ctx.fail(f"No such command {args[0]!r}. {hint}")
        return super().resolve_command(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Subcommands by name, without importing them."""
        if incomplete.startswith("-"):
            return super().shell_complete(ctx, incomplete)
        return [
            CompletionItem(name, help=entry.summary) for name, entry in ENTRIES.items() if name.startswith(incomplete)
        ]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = max(map(len, ENTRIES))
        for section, entries in COMMANDS.items():
            with formatter.section(section):
                formatter.write_dl([(name.ljust(width), entry.summary) for name, entry in entries.items()])

    def invoke(self, ctx: click.Context) -> object:
        from pie_wire.errors import PieError

        try:
            return super().invoke(ctx)
        except PieError as exc:
            raise CommandFailed(exc) from exc
        except KeyboardInterrupt:
            # Ctrl-C is how commands that go on for ever are left: it needs no comment, only a line of its own.
            click.echo(err=True)
            raise click.exceptions.Exit(INTERRUPTED) from None


class CommandFailed(click.ClickException):
    """A typed error on its way to the terminal: `error: MESSAGE (code)`."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.code = str(getattr(error, "code", "internal"))

    def show(self, file: object = None) -> None:
        click.secho("error: ", fg="red", bold=True, nl=False, err=True)
        click.echo(f"{self.message} ({self.code})", err=True)


@click.group(cls=PieGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="pie-mq", prog_name="pie")
def pie() -> None:
    """Pie serves programs, not prompts.

    \b
    pie up                                     start the services
    pie run text-completion -- --prompt "Hi"   run a program, stream its output
    pie chat                                   talk with the model
    pie down                                   stop them
    """


def main() -> None:
    """The entry point of the `pie` script."""
    try:
        pie.main(standalone_mode=True)
    except BrokenPipeError:
        # The reader of a pipe has gone: not an error, but Python must not write to it again.
        sys.stderr.close()
        sys.exit(141)


if __name__ == "__main__":
    main()
