"""Every command has its JSON, its help, its place; the whole stays light."""

from __future__ import annotations

from collections.abc import Iterator

import click
import pytest

from detent.cli.root import NOUNS, exit_code, root
from detent.kernel.errors import DetentError, every_error


def commands() -> Iterator[tuple[str, click.Command]]:
    """Every command with its path."""
    context = click.Context(root)
    for noun in NOUNS:
        found = root.get_command(context, noun)
        assert found is not None
        yield noun, found
        if isinstance(found, click.Group):
            for verb, command in found.commands.items():
                yield f"{noun} {verb}", command


LEAVES = [(path, command) for path, command in commands() if not isinstance(command, click.Group)]


@pytest.mark.parametrize(("path", "command"), LEAVES, ids=[path for path, _c in LEAVES])
def test_takes_json_and_explains_itself(path: str, command: click.Command) -> None:
    options = {name for parameter in command.params for name in parameter.opts}
    assert "--json" in options
    assert (command.help or "").rstrip().endswith((".", "\n"))
    for parameter in command.params:
        if isinstance(parameter, click.Option) and not command.hidden:
            assert parameter.help, (path, parameter.name)


def test_the_first_line_of_a_noun_is_what_the_root_says() -> None:
    context = click.Context(root)
    for noun, (_where, about) in NOUNS.items():
        found = root.get_command(context, noun)
        assert found is not None
        assert bool(about) == (not found.hidden), noun


def test_every_error_has_an_exit_code() -> None:
    codes = {kind.__name__: exit_code(kind("x")) for kind in every_error(DetentError)}
    assert set(codes.values()) == {1, 2, 3, 4, 5}
    assert codes["NotFound"] == 3
