"""A process that records facts until it is stopped or killed; `test_ledger_processes` runs it.

Arguments: database URL, folder of the key and the checkpoints, this writer's name, number of changes (0: for ever).
It prints `ready`, and then one line per acknowledged change: the ids of its facts.
"""

from __future__ import annotations

import sys
from pathlib import Path

from detent.gateway.facts import FACTS, KeyMinted, RouteSaved
from detent.gateway.model import Target
from detent.gateway.views import VIEWS
from detent.kernel.clock import SystemClock
from detent.kernel.facts import NEW_STREAM, Draft, FactCatalog
from detent.kernel.identity import Actor, Permission
from detent.kernel.ids import UuidV7
from detent.store.ledger import open_ledger


def main(url: str, folder: Path, name: str, count: int) -> None:
    """Open, say so, and write."""
    ids = UuidV7()
    ledger = open_ledger(
        url,
        FactCatalog(FACTS, VIEWS),
        checkpoints=folder / "checkpoints.jsonl",
        key_file=folder / "keys" / "ledger.key",
        clock=SystemClock(),
        ids=ids,
    )
    print("ready", flush=True)
    number = 0
    while count == 0 or number < count:
        number += 1
        minted = KeyMinted(name=f"{name} {number}", hash="ab" * 32, hint="dtk_", permissions=(Permission.GATEWAY_CALL,))
        shared = RouteSaved(name="shared", targets=(Target(name, str(number)),))
        own = RouteSaved(name=name, targets=(Target(name, str(number)),))
        drafts = [Draft("route/default/shared", shared), Draft(f"route/default/{name}", own, number - 1)]
        if number % 3 == 0:
            drafts.append(Draft(f"key/{ids.new()}", minted, NEW_STREAM))
        if count == 0:
            drafts[1] = Draft(f"route/default/{name}", own)
        facts = ledger.append(drafts, actor=Actor("system", name), project="default")
        print(*(fact.id for fact in facts), flush=True)
        if number % 25 == 0:
            ledger.checkpoint()
    ledger.close()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
