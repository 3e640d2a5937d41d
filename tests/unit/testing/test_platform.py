"""The temporary platform is real, exact and gone afterwards."""

from __future__ import annotations

from detent.testing import temporary_platform


def story() -> tuple[object, ...]:
    with temporary_platform() as platform:
        caller = platform.access.operator()
        platform.gateway.mint_key(caller, "webshop")
        return tuple((f.id, f.kind, f.time, f.stream) for f in platform.ledger.read())


def test_two_runs_record_the_same() -> None:
    first = story()
    assert first == story()
    assert [kind for _id, kind, *_ in first][-1] == "key.minted"


def test_settings_and_removal() -> None:
    with temporary_platform(telemetry__content="drop") as platform:
        assert platform.settings.telemetry.content == "drop"
        folder = platform.settings.folder
        assert folder.exists()
    assert not folder.exists()
