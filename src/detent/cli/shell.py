"""What a verb has at hand: settings, the platform, the caller, and the two streams it may speak on."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from detent.app.platform import Platform
    from detent.kernel.identity import Principal
    from detent.kernel.settings import Settings


class Shell:
    """One run of the command line.

    Attributes:
        json: whether results are wanted as JSON.
    """

    def __init__(self, home: str | None = None, *, json: bool = False) -> None:
        self._flags: dict[str, Any] = {"home": home}
        self.json = json

    def override(self, flags: Mapping[str, Any]) -> None:
        """Flags that go before file and environment, as `"section.field": value`; None leaves a field alone."""
        self._flags.update(flags)

    @cached_property
    def settings(self) -> Settings:
        """Settings from file, environment and flags."""
        from detent.kernel.settings import load_settings

        return load_settings(os.environ, overrides=self._flags)

    @contextlib.contextmanager
    def platform(self) -> Iterator[tuple[Platform, Principal]]:
        """The installation's stores, opened for this command, and whoever runs it."""
        from detent.app.platform import open_platform

        with open_platform(self.settings) as platform:
            yield platform, platform.access.operator()

    # Results, on stdout

    def show(self, data: Any, text: Callable[[], str]) -> None:
        """Give the result: `data` as JSON when asked for, else what `text` makes of it."""
        if self.json:
            self.show_json(data, pretty=sys.stdout.isatty())
            return
        shown = text()
        if shown:
            click.echo(shown)

    def show_json(self, data: Any, *, pretty: bool = False) -> None:
        """One JSON value on stdout; on one line unless it is for a person's eyes."""
        import msgspec

        encoded = msgspec.json.encode(data)
        click.echo((msgspec.json.format(encoded, indent=2) if pretty else encoded).decode())

    # Talk, on stderr

    def say(self, sentence: str) -> None:
        """Tell the person something that is no result; silent when a program listens."""
        if not self.json:
            click.echo(sentence, err=True)


class Verb(click.Command):
    """A command that takes `--json`."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.params.append(
            click.Option(
                ["--json", "as_json"],
                is_flag=True,
                expose_value=False,
                is_eager=True,
                callback=_want_json,
                help="Give the result as JSON.",
            )
        )


class Noun(click.Group):
    """A noun with its verbs."""

    command_class = Verb


def _want_json(ctx: click.Context, _option: click.Parameter, value: bool) -> None:
    if value:
        ctx.ensure_object(Shell).json = True


pass_shell = click.make_pass_decorator(Shell, ensure=True)
