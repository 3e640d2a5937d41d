"""`detent audit`: who changed what, and the proof that nobody changed it afterwards."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from detent.cli.shell import Noun, Shell, pass_shell
from detent.cli.shown import checkpoint_json, fact_json, page_json, verification_json
from detent.cli.text import count, details, moment, number, shorten, table
from detent.kernel.facts import Fact
from detent.kernel.ports import Verification

FOUND = 6
"""Exit code of a check that found something wrong."""


@click.group("audit", cls=Noun)
def audit() -> None:
    """The ledger: who changed what, and the proof of it."""


@audit.command("log")
@click.option("--kind", default="", help="Only this kind of fact, e.g. key.minted.")
@click.option("--stream", default="", help="Only about this thing, e.g. provider/default/openai.")
@click.option("--actor", default="", help="Only by this actor, e.g. user:0190...")
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True, help="At most so many.")
@click.option("--after", type=click.IntRange(min=0), default=0, help="Continue a list at this position.")
@click.option("--oldest-first", is_flag=True, help="In the order in which it happened.")
@pass_shell
def log(shell: Shell, kind: str, stream: str, actor: str, limit: int, after: int, oldest_first: bool) -> None:
    """Show facts, newest first."""
    with shell.platform() as (platform, caller):
        found = platform.audit.log(
            caller, after=after, limit=limit, stream=stream, kind=kind, actor=actor, newest_first=not oldest_first
        )
    more = str(found[-1].position) if len(found) == limit else ""
    rows = [
        (str(f.position), moment(f.time), str(f.actor), f.kind, f.stream, shorten(_body(f), 60), f.reason)
        for f in found
    ]
    shell.show(
        page_json([fact_json(fact) for fact in found], after=more),
        lambda: table((number("NO"), "TIME", "ACTOR", "FACT", "ABOUT", "WHAT", "WHY"), rows),
    )
    if more:
        shell.say(f"More: --after {more}" + (" --oldest-first" if oldest_first else ""))


def _body(fact: Fact) -> str:
    return msgspec.json.encode(fact.body).decode()


@audit.command("verify")
@click.option("--copy", type=click.Path(path_type=Path, dir_okay=False), help="Check this copy of a ledger, offline.")
@click.option(
    "--checkpoints", type=click.Path(path_type=Path, dir_okay=False), help="Checkpoints kept elsewhere (JSON lines)."
)
@pass_shell
def verify(shell: Shell, copy: Path | None, checkpoints: Path | None) -> int:
    """Recompute the whole ledger and compare it with what was signed. Exits 6 when something is wrong."""
    from detent.app.offline import read_checkpoints, verify_copy

    shell.say("Recomputing every fact...")
    if copy is not None:
        signed = read_checkpoints(checkpoints) if checkpoints else ()
        found = verify_copy(copy, signed)
    else:
        where = checkpoints or shell.settings.checkpoints
        signed = read_checkpoints(where, required=checkpoints is not None)
        with shell.platform() as (platform, caller):
            found = platform.audit.verify(caller, checkpoints=signed)
    shell.show(verification_json(found), lambda: _verified(found))
    if found.ok and not signed:
        shell.say("No checkpoint was compared: only one kept elsewhere shows that the whole was not rewritten.")
        shell.say("  Next: detent audit checkpoint")
    if not found.ok:
        shell.say("Error: the ledger is not as it was written. Keep this file, and restore from a backup.")
    return 0 if found.ok else FOUND


def _verified(found: Verification) -> str:
    shown = details(
        [
            ("result", "ok" if found.ok else f"{count(len(found.findings))} findings"),
            ("facts", count(found.facts)),
            ("head", found.head),
            ("root", found.root),
            (
                "checkpoint",
                f"{count(found.checkpoint.size)} facts, signed {moment(found.checkpoint.time)}"
                if found.checkpoint
                else "none",
            ),
        ]
    )
    if found.ok:
        return shown
    rows = [(str(f.position), f.problem, f.detail) for f in found.findings]
    return shown + "\n\n" + table((number("NO"), "PROBLEM", "DETAIL"), rows)


@audit.command("checkpoint")
@pass_shell
def checkpoint(shell: Shell) -> None:
    """Sign where the chain stands, and keep it outside the database too."""
    with shell.platform() as (platform, _caller):
        signed = platform.audit.checkpoint()
    shell.show(
        checkpoint_json(signed),
        lambda: details(
            [
                ("facts", count(signed.size)),
                ("head", signed.head),
                ("root", signed.root),
                ("signed", moment(signed.time)),
                ("key", signed.key_id),
            ]
        ),
    )
    shell.say(f"Kept in {shell.settings.checkpoints}; copy that file to where nobody here can change it.")


@audit.command("rebuild")
@pass_shell
def rebuild(shell: Shell) -> int:
    """Fold all current state anew from the facts. Exits 6 when a row differed."""
    shell.say("Folding every fact...")
    with shell.platform() as (platform, caller):
        differed = dict(platform.audit.rebuild(caller))
    rows = [(name, count(rows_)) for name, rows_ in sorted(differed.items())]
    shell.show({"differed": differed}, lambda: table(("VIEW", number("ROWS THAT DIFFERED")), rows))
    return FOUND if any(differed.values()) else 0
