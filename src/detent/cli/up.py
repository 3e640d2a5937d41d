"""`detent up`, `status` and `doctor`: the installation as a whole."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
import msgspec

from detent.cli.shell import Shell, Verb, pass_shell
from detent.cli.shown import time_of
from detent.cli.text import count, details, moment, number, size, table

if TYPE_CHECKING:
    from detent.app.status import Status

FOUND = 6
"""Exit code of a check that found something wrong."""


@click.command("up", cls=Verb)
@click.option("--port", type=click.IntRange(0, 65535), help="Port of console and API (DETENT_PORT).")
@click.option("--gateway-port", type=click.IntRange(0, 65535), help="Port of the gateway (DETENT_GATEWAY_PORT).")
@click.option("--workers", type=click.IntRange(1, 256), help="Gateway processes (DETENT_GATEWAY_WORKERS).")
@click.option("--no-engine", is_flag=True, help="Without the embedded model.")
@pass_shell
def up(shell: Shell, port: int | None, gateway_port: int | None, workers: int | None, no_engine: bool) -> int:
    """Start everything and keep it running: gateway, console and API, worker, embedded model.

    Stop it with Ctrl-C or SIGTERM: calls in flight finish first.
    """
    shell.override(
        {
            "control.port": port,
            "gateway.port": gateway_port,
            "gateway.workers": workers,
            "engine.enabled": False if no_engine else None,
        }
    )
    from detent.app.supervisor import main

    return main(shell.settings, json=shell.json)


@click.command("status", cls=Verb)
@pass_shell
def status(shell: Shell) -> None:
    """Show what runs, where, and how it is."""
    with shell.platform() as (platform, _caller):
        found = platform.status()
    shell.show(status_json(found), lambda: _status(found))
    if not found.parts:
        shell.say("Nothing runs. Start it: detent up")


def status_json(found: Status) -> dict[str, Any]:
    """The status with times as times."""
    data: dict[str, Any] = msgspec.to_builtins(found)
    for part in data["parts"]:
        part["since"] = time_of(part["since"])
    data["ledger"]["checkpoint_time"] = time_of(data["ledger"]["checkpoint_time"])
    return data


def _status(found: Status) -> str:
    whole = details(
        [
            ("version", found.version),
            ("home", found.home),
            ("gateway", found.gateway_url),
            ("console", found.console_url),
            ("ledger", f"{found.ledger.kind}, {count(found.ledger.position)} facts"),
            ("checkpoint", f"{count(found.ledger.checkpoint_size)} facts, {moment(found.ledger.checkpoint_time)}"),
            ("lake", f"{count(found.lake.spans)} spans, {size(found.lake.bytes)}"),
            ("spool", f"{size(found.spool.bytes)}, {count(found.spool.lag)} waiting, {count(found.spool.shed)} shed"),
            ("snapshot", f"of fact {count(found.snapshot_position)}"),
        ]
    )
    rows = [
        (p.name, p.state, str(p.pid or "-"), p.address or "-", count(p.restarts), moment(p.since), p.detail)
        for p in found.parts
    ]
    parts = table(("PART", "STATE", number("PID"), "ADDRESS", number("RESTARTS"), "SINCE", "DETAIL"), rows)
    return "\n\n".join(text for text in (whole, parts, "\n".join(found.security)) if text)


@click.command("doctor", cls=Verb)
@pass_shell
def doctor(shell: Shell) -> int:
    """Explain what is wrong and how to repair it. Exits 6 when something is."""
    from detent.app.doctor import examine

    found = examine(shell.settings)
    ok = all(check.state != "failed" for check in found)
    lines = []
    for check in found:
        lines.append(f"{check.state.ljust(7)}  {check.name}: {check.what}")
        if check.why:
            lines.append(f"         why: {check.why}")
        if check.fix:
            lines.append(f"         fix: {check.fix}")
    shell.show({"ok": ok, "checks": [msgspec.to_builtins(check) for check in found]}, lambda: "\n".join(lines))
    return 0 if ok else FOUND
