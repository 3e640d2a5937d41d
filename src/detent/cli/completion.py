"""`detent completion`: what a shell needs to complete our commands."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from detent.cli.shell import Shell, Verb, pass_shell

_WHERE = {
    "bash": 'eval "$(detent completion bash)"   # in ~/.bashrc',
    "zsh": 'eval "$(detent completion zsh)"   # in ~/.zshrc',
    "fish": "detent completion fish | source   # in ~/.config/fish/config.fish",
}


@click.command("completion", cls=Verb)
@click.argument("shell_name", metavar="SHELL", type=click.Choice(tuple(_WHERE)))
@pass_shell
def completion(shell: Shell, shell_name: str) -> None:
    """Print the completion script for bash, zsh or fish."""
    from detent.cli.root import root

    found = get_completion_class(shell_name)
    assert found is not None
    script = found(root, {}, "detent", "_DETENT_COMPLETE").source()
    shell.show({"shell": shell_name, "script": script}, lambda: script)
    shell.say(f"Use it: {_WHERE[shell_name]}")
