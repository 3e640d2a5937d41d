"""Delegations: only our own are taken, and only in their time."""

from __future__ import annotations

import pytest

from detent.gateway.delegation import Delegation, accept, issue
from detent.guard.vault import Vault
from detent.kernel.secret import Secret

VAULT = Vault(b"k" * 32)
GIVEN = Delegation(project="default", key_id="k1", routes=("m",), priority="batch", expires=100)


def test_there_and_back() -> None:
    token = issue(VAULT, GIVEN)
    assert accept(VAULT, token.reveal(), 99) == GIVEN
    assert "default" not in token.reveal()


@pytest.mark.parametrize("now", [100, 10_000])
def test_its_time_is_over(now: int) -> None:
    assert accept(VAULT, issue(VAULT, GIVEN).reveal(), now) is None


def test_what_was_not_made_here() -> None:
    good = issue(VAULT, GIVEN).reveal()
    other = issue(Vault(b"o" * 32), GIVEN).reveal()
    provider = "dti_" + VAULT.seal(Secret('{"project": "default", "expires": 999}'), url="https://api.example.com")
    strange = "dti_" + VAULT.seal(Secret("{}"), url="https://gateway.detent.internal")
    for token in ("", "dti_", "dtk_" + good[4:], good[:-8] + "AAAAAAA=", other, provider, strange, "dti_" + "x" * 9999):
        assert accept(VAULT, token, 1) is None
