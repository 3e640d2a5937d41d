"""What every Accounts and every Secrets does, on every database."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from sqlalchemy import Engine

from detent.kernel.errors import Conflict, NotFound
from detent.kernel.ports import Account, Session
from detent.store.accounts import SqlAccounts
from detent.store.database import open_database
from detent.store.secrets import SqlSecrets

ANNA = Account(
    id="a1", name="anna@example.com", role="admin", password_hash="$argon2id$x", created=1_767_225_600 * 10**9
)
BEN = Account(id="b1", name="Ben", role="viewer")


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    """An empty database."""
    engine = open_database(database_url)
    yield engine
    engine.dispose()


@pytest.fixture
def accounts(engine: Engine) -> SqlAccounts:
    """No people yet."""
    return SqlAccounts(engine)


def session(token: str, account: str = "a1") -> Session:
    return Session(token_hash=token, account_id=account, csrf="c", created=1, expires=2)


def test_accounts_are_saved_found_and_changed(accounts: SqlAccounts) -> None:
    accounts.save(BEN)
    accounts.save(ANNA)
    assert accounts.get("a1") == accounts.by_name("anna@example.com") == ANNA
    assert accounts.all() == (BEN, ANNA) or accounts.all() == (ANNA, BEN)
    changed = msgspec.structs.replace(ANNA, role="auditor", disabled=True)
    accounts.save(changed)
    assert accounts.get("a1") == changed
    assert accounts.get("x") is accounts.by_name("x") is None


def test_a_name_belongs_to_one(accounts: SqlAccounts) -> None:
    accounts.save(ANNA)
    accounts.save(BEN)
    with pytest.raises(Conflict):
        accounts.save(msgspec.structs.replace(BEN, name=ANNA.name))
    assert accounts.get("b1") == BEN


def test_sessions_open_and_close(accounts: SqlAccounts) -> None:
    accounts.save(ANNA)
    for token in ("t1", "t2", "t3"):
        accounts.open_session(session(token))
    assert accounts.session("t1") == session("t1")
    accounts.close_session("t1")
    assert accounts.session("t1") is None
    accounts.close_sessions("a1")
    assert accounts.session("t2") is accounts.session("t3") is None
    with pytest.raises(NotFound):
        accounts.open_session(session("t4", "nobody"))


def test_an_erased_person_is_gone_with_their_sessions(accounts: SqlAccounts, database_url: str) -> None:
    accounts.save(ANNA)
    accounts.save(BEN)
    accounts.open_session(session("t1"))
    accounts.erase("a1")
    assert (accounts.get("a1"), accounts.session("t1"), accounts.all()) == (None, None, (BEN,))
    accounts.erase("a1")
    if database_url.startswith("sqlite"):
        file = Path(database_url.removeprefix("sqlite:///"))
        for part in file.parent.glob(file.name + "*"):
            assert b"anna@example.com" not in part.read_bytes()


def test_a_link_is_used_once(accounts: SqlAccounts) -> None:
    accounts.put_link("l1", "sign-in:a1", expires=100)
    accounts.put_link("l2", "sign-in:b1", expires=100)
    assert accounts.take_link("l1", 99) == "sign-in:a1"
    assert accounts.take_link("l1", 99) is None
    assert accounts.take_link("l2", 100) is None
    assert accounts.take_link("l2", 1) is None
    assert accounts.take_link("unknown", 1) is None


def test_of_two_at_once_one_gets_the_link(accounts: SqlAccounts) -> None:
    accounts.put_link("l1", "p", expires=100)
    got: list[str | None] = []
    threads = [threading.Thread(target=lambda: got.append(accounts.take_link("l1", 1))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(got, key=str) == [None] * 7 + ["p"]


def test_secrets_are_kept_replaced_and_destroyed(engine: Engine, database_url: str) -> None:
    secrets = SqlSecrets(engine)
    assert secrets.get("s1") is None
    secrets.put("s1", "v1.first-ciphertext")
    secrets.put("s1", "v1.second-ciphertext")
    secrets.put("s2", "v1.other")
    assert secrets.get("s1") == "v1.second-ciphertext"
    secrets.delete("s1")
    secrets.delete("s1")
    assert (secrets.get("s1"), secrets.get("s2")) == (None, "v1.other")
    if database_url.startswith("sqlite"):
        file = Path(database_url.removeprefix("sqlite:///"))
        for part in file.parent.glob(file.name + "*"):
            assert b"ciphertext" not in part.read_bytes()
