"""`pie completion`: the script that makes a shell complete `pie`."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script of a shell.

    \b
    bash:  pie completion bash > ~/.local/share/bash-completion/completions/pie
    zsh:   pie completion zsh > "${fpath[1]}/_pie"
    fish:  pie completion fish > ~/.config/fish/completions/pie.fish
    """
    from pie_cli.main import pie

    found = get_completion_class(shell)
    if found is None:
        raise click.ClickException(f"no completion for {shell}")
    click.echo(found(pie, {}, "pie", "_PIE_COMPLETE").source())
