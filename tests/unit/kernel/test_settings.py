"""Settings: where they come from, which wins, and what happens to a wrong one."""

from __future__ import annotations

from pathlib import Path

import pytest

from detent.kernel.errors import BadSettings
from detent.kernel.settings import Settings, every_field, load_settings


def env(home: Path, **more: str) -> dict[str, str]:
    return {"DETENT_HOME": str(home), **more}


def write(home: Path, text: str) -> None:
    (home / "detent.toml").write_text(text)


def test_the_defaults_are_loopback_and_private(home: Path) -> None:
    found = load_settings(env(home))
    assert found == Settings(home=str(home))
    assert (found.control.host, found.gateway.host) == ("127.0.0.1", "127.0.0.1")
    assert (found.gateway.port, found.control.port) == (7400, 7401)


def test_flag_beats_environment_beats_file_beats_default(home: Path) -> None:
    write(home, "[gateway]\nport = 1\nworkers = 2\nmax_depth = 10\n")
    variables = env(home, DETENT_GATEWAY_PORT="3", DETENT_GATEWAY_WORKERS="4")
    found = load_settings(variables, overrides={"gateway.port": 5, "gateway.host": None}).gateway
    assert (found.port, found.workers, found.max_depth, found.host) == (5, 4, 10, "127.0.0.1")


def test_the_home_flag_beats_the_environment(home: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    write(other, "[gateway]\nport = 9\n")
    found = load_settings(env(home), overrides={"home": str(other)})
    assert (found.folder, found.gateway.port) == (other, 9)


def test_without_any_variable_home_is_in_the_users_folder(tmp_path: Path) -> None:
    assert load_settings({"HOME": str(tmp_path)}).folder == tmp_path / ".detent"


def test_a_file_elsewhere(home: Path, tmp_path: Path) -> None:
    config = tmp_path / "other.toml"
    config.write_text("[log]\nlevel = 'debug'\n")
    assert load_settings(env(home, DETENT_CONFIG=str(config))).log.level == "debug"
    with pytest.raises(BadSettings, match="does not exist"):
        load_settings(env(home, DETENT_CONFIG=str(tmp_path / "missing.toml")))


def test_an_empty_variable_is_no_variable(home: Path) -> None:
    assert load_settings(env(home, DETENT_CONFIG="", DETENT_GATEWAY_PORT="")) == Settings(home=str(home))


@pytest.mark.parametrize(("text", "value"), [("true", True), ("false", False), ("1", True), ("0", False)])
def test_booleans_in_the_environment(text: str, value: bool, home: Path) -> None:
    assert load_settings(env(home, DETENT_ENGINE_ENABLED=text)).engine.enabled is value


@pytest.mark.parametrize(
    ("text", "field", "said"),
    [
        ("[gateway]\nport = 70000", "gateway.port", "<= 65535"),
        ("[gateway]\nport = 'abc'", "gateway.port", "Expected `int`"),
        ("[gateway]\nprot = 1", "gateway.prot", "no such setting"),
        ("[gatway]\nport = 1", "gatway", "no such setting"),
        ("gateway = 5", "gateway", "Expected `object`"),
        ("[log]\nlevel = 'loud'", "log.level", "Invalid enum value"),
        ("[gateway]\nidle_timeout = nan", "gateway.idle_timeout", "> 0"),
    ],
)
def test_a_wrong_value_stops_the_start_and_is_named(text: str, field: str, said: str, home: Path) -> None:
    write(home, text)
    with pytest.raises(BadSettings, match=said) as caught:
        load_settings(env(home))
    assert caught.value.field == field
    assert f"'{field}'" in caught.value.message
    assert str(home / "detent.toml") in caught.value.hint


@pytest.mark.parametrize("text", ["[gateway", "port = ", "\x00"])
def test_a_file_that_is_no_toml(text: str, home: Path) -> None:
    write(home, text)
    with pytest.raises(BadSettings, match=r"detent\.toml cannot be read"):
        load_settings(env(home))


def test_a_file_that_is_no_text(home: Path) -> None:
    (home / "detent.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(BadSettings, match="cannot be read"):
        load_settings(env(home))


def test_a_misspelt_variable_stops_the_start(home: Path) -> None:
    with pytest.raises(BadSettings, match="DETENT_GATEWAY_PROT") as caught:
        load_settings(env(home, DETENT_GATEWAY_PROT="1"))
    assert caught.value.hint == "Did you mean DETENT_GATEWAY_PORT?"
    load_settings(env(home, DETENT_GATEWAY_URL="http://x", DETENT_API_KEY="k", DETENTION="1"))


def test_derived_values(home: Path) -> None:
    plain = load_settings(env(home))
    assert plain.ledger_url == f"sqlite:///{home / 'ledger.db'}"
    assert plain.checkpoints == home / "checkpoints.jsonl"
    for scheme in ("postgres", "postgresql"):
        given = load_settings(env(home, DETENT_STORAGE_LEDGER_URL=f"{scheme}://me@db/detent"))
        assert given.ledger_url == "postgresql+psycopg://me@db/detent"
    other = load_settings(env(home, DETENT_STORAGE_CHECKPOINTS="/mnt/worm/c.jsonl"))
    assert other.checkpoints == Path("/mnt/worm/c.jsonl")


@pytest.mark.parametrize("field", list(every_field()), ids=lambda f: f.env)
def test_every_setting_is_documented_and_reachable(field: object, home: Path) -> None:
    assert field.description.endswith(".")  # type: ignore[attr-defined]
    assert field.type  # type: ignore[attr-defined]


def test_the_names_that_others_rely_on() -> None:
    names = {f.env: f.default for f in every_field()}
    assert (names["DETENT_GATEWAY_PORT"], names["DETENT_PORT"]) == (7400, 7401)
    assert "DETENT_HOME" in names
    assert len(names) == len(list(every_field()))


@pytest.mark.parametrize("field", [f for f in every_field() if f.section], ids=lambda f: f.env)
def test_every_default_survives_the_environment(field: object, home: Path) -> None:
    text = str(field.default).lower() if isinstance(field.default, bool) else str(field.default)  # type: ignore[attr-defined]
    found = load_settings(env(home, **{field.env: text}))  # type: ignore[attr-defined]
    assert getattr(getattr(found, field.section), field.name) == field.default  # type: ignore[attr-defined]
