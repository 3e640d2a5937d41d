"""The configuration's verbs: what they record, what they refuse, what they keep secret."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from detent.gateway.facts import FACTS
from detent.gateway.keys import hash_token, hint_of, new_token
from detent.gateway.model import EMBEDDED, EMBEDDED_MODEL, Target
from detent.gateway.prices import PriceTable, own_prices, price_of, read_price, shipped_prices
from detent.gateway.service import Gateway, parse_target
from detent.gateway.snapshot import Sources, compile_snapshot
from detent.gateway.views import VIEWS
from detent.guard.vault import open_vault
from detent.kernel.clock import HOUR, FixedClock
from detent.kernel.errors import Conflict, Forbidden, InvalidInput, NotFound
from detent.kernel.facts import FactCatalog
from detent.kernel.identity import ROLES, Actor, Permission, Principal
from detent.kernel.ids import CountedIds
from detent.kernel.money import DatedPrice, Price
from detent.kernel.secret import Secret
from detent.store.ledger import open_ledger
from detent.store.secrets import SqlSecrets

ADMIN = Principal(Actor("user", "u-1"), "default", frozenset(Permission))
VIEWER = Principal(Actor("user", "u-2"), "default", ROLES["viewer"])
OTHER = Principal(Actor("user", "u-3"), "other", frozenset(Permission))
URL = "https://api.provider.test/v1"


class Stage:
    """The service on a real ledger."""

    def __init__(self, folder: Path, clock: FixedClock, ids: CountedIds) -> None:
        self.clock = clock
        self.changes = 0
        self.ledger = open_ledger(
            f"sqlite:///{folder / 'ledger.db'}",
            FactCatalog(FACTS, VIEWS),
            checkpoints=folder / "checkpoints.jsonl",
            key_file=folder / "ledger.key",
            clock=clock,
            ids=ids,
        )
        self.secrets = SqlSecrets(self.ledger.engine)
        self.vault = open_vault(folder / "root.key")
        self.gateway = Gateway(
            self.ledger, self.secrets, lambda: self.vault, clock=clock, ids=ids, changed=self._changed
        )

    def _changed(self) -> None:
        self.changes += 1

    def everything(self) -> bytes:
        """All bytes of all files of the database."""
        with self.ledger.engine.connect() as connection:
            path = Path(str(connection.engine.url.database))
        return b"".join(found.read_bytes() for found in path.parent.glob("ledger.db*"))


@pytest.fixture
def stage(tmp_path: Path, clock: FixedClock, ids: CountedIds) -> Iterator[Stage]:
    found = Stage(tmp_path, clock, ids)
    yield found
    found.ledger.close()


# Keys


def test_a_key_is_shown_once_and_kept_as_a_hash(stage: Stage) -> None:
    minted = stage.gateway.mint_key(ADMIN, " app ")
    token = minted.token.reveal()
    assert minted.key.name == "app"
    assert minted.key.hash == hash_token(token)
    assert minted.key.hint == token[:8] + "…"
    assert token not in str(minted)
    assert stage.gateway.keys(ADMIN) == (minted.key,)
    assert stage.gateway.keys(OTHER) == ()
    assert token.encode() not in stage.everything()
    assert stage.changes == 1


def test_a_key_is_never_wider_than_its_issuer(stage: Stage) -> None:
    minter = Principal(Actor("user", "u"), "default", frozenset({Permission.KEYS_WRITE, Permission.GATEWAY_CALL}))
    wanted = frozenset({Permission.GATEWAY_CALL, Permission.USERS_WRITE})
    assert stage.gateway.mint_key(minter, "k", permissions=wanted).key.permissions == (Permission.GATEWAY_CALL,)
    with pytest.raises(InvalidInput, match="None of the permissions"):
        stage.gateway.mint_key(minter, "k", permissions=frozenset({Permission.USERS_WRITE}))
    with pytest.raises(Forbidden):
        stage.gateway.mint_key(VIEWER, "k")
    assert stage.changes == 1


def test_revoking(stage: Stage) -> None:
    first, second = stage.gateway.mint_key(ADMIN, "same").key, stage.gateway.mint_key(ADMIN, "same").key
    with pytest.raises(Conflict, match="2 keys"):
        stage.gateway.revoke_key(ADMIN, "same")
    revoked = stage.gateway.revoke_key(ADMIN, first.id, reason="lost")
    assert not revoked.live(stage.clock.now())
    assert stage.gateway.revoke_key(ADMIN, first.id) == revoked
    assert stage.changes == 3
    assert stage.gateway.revoke_key(ADMIN, "same").id == second.id
    with pytest.raises(NotFound):
        stage.gateway.revoke_key(OTHER, first.id)
    with pytest.raises(NotFound):
        stage.gateway.revoke_key(ADMIN, "nobody")


@pytest.mark.parametrize("name", ["", "  ", "x" * 101, "a\nb", "a\x00b"])
def test_bad_names_of_keys(stage: Stage, name: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        stage.gateway.mint_key(ADMIN, name)
    assert refused.value.field == "name"


def test_expiry(stage: Stage) -> None:
    now = stage.clock.now()
    for expires in (-1, 1, now):
        with pytest.raises(InvalidInput):
            stage.gateway.mint_key(ADMIN, "k", expires=expires)
    key = stage.gateway.mint_key(ADMIN, "k", expires=now + HOUR).key
    assert key.live(now + HOUR - 1)
    assert not key.live(now + HOUR)


def test_tokens_have_one_form() -> None:
    tokens = {new_token().reveal() for _ in range(100)}
    assert len(tokens) == 100
    assert all(hash_token(token) for token in tokens)
    good = next(iter(tokens))
    for bad in (good[:-1], good + "x", good.replace("dtk_", "dtk-"), good[:-1] + "é", good[:-1] + "\n", "", "dtk_"):
        assert hash_token(bad) is None
    assert hint_of(Secret(good)).startswith("dtk_")


# Providers


def test_a_credential_is_sealed_and_bound_to_its_host(stage: Stage) -> None:
    saved = stage.gateway.save_provider(ADMIN, "p", url=URL + "/chat/completions", credential=Secret(" sk-secret\n"))
    assert saved.url == URL
    sealed = stage.secrets.get(saved.secret_id)
    assert sealed is not None
    assert stage.vault.open(sealed, url=URL).reveal() == "sk-secret"
    assert b"sk-secret" not in stage.everything()
    # The path may change without the credential, the host may not.
    moved = stage.gateway.save_provider(ADMIN, "p", url="https://api.provider.test/v2", replace=True)
    assert moved.secret_id == saved.secret_id
    with pytest.raises(InvalidInput, match="host changed"):
        stage.gateway.save_provider(ADMIN, "p", url="https://evil.test/v1", replace=True)
    # A new credential destroys the old one; so does removal.
    fresh = stage.gateway.save_provider(ADMIN, "p", url=URL, credential=Secret("sk-2"), replace=True)
    assert stage.secrets.get(saved.secret_id) is None
    stage.gateway.remove_provider(ADMIN, "p")
    assert stage.secrets.get(fresh.secret_id) is None
    assert stage.gateway.providers(ADMIN) == ()


def test_a_provider_is_not_replaced_by_accident(stage: Stage) -> None:
    stage.gateway.save_provider(ADMIN, "p", url=URL)
    with pytest.raises(Conflict):
        stage.gateway.save_provider(ADMIN, "p", url=URL)
    stage.gateway.save_provider(OTHER, "p", url=URL)
    with pytest.raises(Forbidden):
        stage.gateway.save_provider(VIEWER, "q", url=URL)


@pytest.mark.parametrize(
    ("url", "private"),
    [
        ("http://127.0.0.1:8000/v1", False),
        ("http://localhost:8000/v1", False),
        ("http://10.0.0.5/v1", False),
        ("http://[::1]:8000/v1", False),
        ("http://169.254.169.254/latest", True),
        ("http://0.0.0.0:8000/v1", True),
        ("http://168.63.129.16/", True),
        ("http://2130706433/", True),
        ("https://user:pw@api.test/v1", True),
        ("https://api.test/v1?key=1", True),
        ("https://api.test\\@evil.test/v1", True),
        ("ftp://api.test/", True),
        ("api.test", True),
        ("", True),
    ],
)
def test_urls_that_could_never_be_called(stage: Stage, url: str, private: bool) -> None:
    with pytest.raises(InvalidInput) as refused:
        stage.gateway.save_provider(ADMIN, "p", url=url, allow_private=private)
    assert refused.value.field == "url"
    assert stage.changes == 0


def test_private_addresses_by_configuration(stage: Stage) -> None:
    saved = stage.gateway.save_provider(ADMIN, "p", url="http://127.0.0.1:8000/v1/", allow_private=True)
    assert (saved.url, saved.allow_private) == ("http://127.0.0.1:8000/v1", True)


@pytest.mark.parametrize("credential", ["a b", "a\nb", "é", " \n"])
def test_credentials_that_no_header_may_hold(stage: Stage, credential: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        stage.gateway.save_provider(ADMIN, "p", url=URL, credential=Secret(credential))
    assert refused.value.field == "credential"
    assert stage.changes == 0


# Routes and prices


def test_routes(stage: Stage) -> None:
    stage.gateway.save_provider(ADMIN, "p", url=URL)
    route = stage.gateway.save_route(ADMIN, "bot", (Target("p", "gpt-4o"), Target(EMBEDDED, EMBEDDED_MODEL)))
    assert [r.name for r in stage.gateway.routes(ADMIN)] == ["bot", EMBEDDED_MODEL]
    with pytest.raises(Conflict):
        stage.gateway.save_route(ADMIN, "bot", route.targets)
    with pytest.raises(Conflict, match="bot"):
        stage.gateway.remove_provider(ADMIN, "p")
    with pytest.raises(NotFound):
        stage.gateway.save_route(OTHER, "bot", (Target("p", "gpt-4o"),))  # another project's provider
    stage.gateway.remove_route(ADMIN, "bot")
    stage.gateway.remove_provider(ADMIN, "p")
    with pytest.raises(NotFound):
        stage.gateway.remove_route(ADMIN, "bot")


@pytest.mark.parametrize(
    ("name", "targets"),
    [
        ("Bad Name", (Target(EMBEDDED, "m"),)),
        ("r", ()),
        ("r", (Target(EMBEDDED, ""),)),
        ("r", (Target(EMBEDDED, "m\n"),)),
        ("r", (Target(EMBEDDED, "m" * 201),)),
        ("r", (Target(EMBEDDED, "m", 0),)),
        ("r", (Target(EMBEDDED, "m", -1),)),
    ],
)
def test_bad_routes(stage: Stage, name: str, targets: tuple[Target, ...]) -> None:
    with pytest.raises(InvalidInput):
        stage.gateway.save_route(ADMIN, name, targets)
    assert stage.changes == 0


def test_targets_as_text() -> None:
    assert parse_target("p/m") == Target("p", "m")
    assert parse_target("p/org/m=3") == Target("p", "org/m", 3)
    assert str(Target("p", "org/m")) == "p/org/m"
    for bad in ("p", "/m", "p/", "p/m=", "p/m=x", "p/m=-1", ""):
        with pytest.raises(InvalidInput):
            parse_target(bad)


def test_prices(stage: Stage) -> None:
    table, now = shipped_prices(), stage.clock.now()
    assert table.find("gpt-4o", now) == table.find("openai/gpt-4o", now) == table.find("gpt-4o-2024-08-06", now)
    assert table.find("no-such-model", now) is None
    stage.gateway.save_provider(ADMIN, "p", url=URL)
    entry = stage.gateway.set_price(ADMIN, Target("p", "gpt-4o"), Price(1, 2))
    assert stage.gateway.prices(ADMIN) == (entry,)
    assert entry.at(now) == Price(1, 2)
    own = own_prices((entry,))
    assert price_of(table, own, "p", "gpt-4o", now) == Price(1, 2)
    assert price_of(table, own, "p", "gpt-4o", now - 1) == table.find("gpt-4o", now)
    assert price_of(table, own, "q", "gpt-4o", now) == table.find("gpt-4o", now)
    assert price_of(table, {}, EMBEDDED, EMBEDDED_MODEL, now) == Price(0, 0)
    assert price_of(table, {}, "q", "unknown", now) is None
    assert read_price({"input": "0.15", "output": "0.6"}) == Price(150_000, 600_000)


# The snapshot of it


def test_the_snapshot_has_what_the_views_have(stage: Stage) -> None:
    key = stage.gateway.mint_key(ADMIN, "k", routes=("bot",)).key
    gone = stage.gateway.mint_key(ADMIN, "gone").key
    stage.gateway.revoke_key(ADMIN, gone.id)
    provider = stage.gateway.save_provider(ADMIN, "p", url=URL, credential=Secret("sk"))
    route = stage.gateway.save_route(ADMIN, "bot", (Target("p", "gpt-4o"), Target("p", "unknown-model")))
    sources = Sources(
        position=7,
        keys=stage.gateway.keys(ADMIN),
        providers=(provider,),
        routes=(route,),
        prices=(),
        secrets={provider.secret_id: "v1.sealed"},
        engine_url="http://127.0.0.1:7402/v1",
    )
    table = PriceTable("t", {"gpt-4o": (DatedPrice(0, Price(5, 6)),)})
    found = compile_snapshot(sources, table=table, now=stage.clock.now())
    assert list(found.keys) == [key.hash]
    assert found.keys[key.hash].routes == ("bot",)
    assert found.providers["default/p"].sealed == "v1.sealed"
    assert found.providers["default/embedded"].allow_private
    assert [target.price for target in found.routes["default/bot"].targets] == [Price(5, 6), None]
    assert found.routes[f"default/{EMBEDDED_MODEL}"].targets[0].price == Price(0, 0)
    assert (
        "default/embedded"
        not in compile_snapshot(Sources(7, (), (), (), (), {}), table=table, now=stage.clock.now()).providers
    )
