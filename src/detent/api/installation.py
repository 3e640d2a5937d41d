"""The installation as a whole: status, settings, integrity of blobs, and whether it is ready."""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec

from detent.api.border import InstallationCaller, ThePlatform, nouns
from detent.api.schemas.audit import BlobsOut, DamageOut
from detent.api.schemas.common import Page, time_of
from detent.api.schemas.installation import ReadyOut, SettingOut, StatusOut
from detent.app.checking import check_blobs as check
from detent.app.checking import is_sound
from detent.app.http import PUBLIC, needs, router
from detent.kernel.errors import Unavailable
from detent.kernel.identity import Permission
from detent.kernel.settings import Field, Settings, every_field

routes = nouns("installation")
probes = router(tags=["installation"])
_PASSWORD: Final = re.compile(r"(?<=://)([^/@:]*):[^/@]*(?=@)")


@routes.get("/status")
@needs(Permission.SETTINGS_READ)
def read_status(_caller: InstallationCaller, platform: ThePlatform) -> StatusOut:
    """What runs, where, and how it is."""
    data: dict[str, Any] = msgspec.to_builtins(platform.status())
    for part in data["parts"]:
        part["since"] = time_of(part["since"])
    data["ledger"]["checkpoint_time"] = time_of(data["ledger"]["checkpoint_time"])
    return StatusOut(**data)


@routes.get("/settings")
@needs(Permission.SETTINGS_READ)
def list_settings(_caller: InstallationCaller, platform: ThePlatform) -> Page[SettingOut]:
    """All settings with their values; passwords in addresses are left out."""
    items = [
        SettingOut(
            name=f"{field.section}.{field.name}" if field.section else field.name,
            value=_value(platform.settings, field),
            default=field.default,
            env=field.env,
            about=field.description,
        )
        for field in every_field()
    ]
    return Page(items=items)


def _value(settings: Settings, field: Field) -> Any:
    value = getattr(getattr(settings, field.section) if field.section else settings, field.name)
    return _PASSWORD.sub(r"\1:***", value) if isinstance(value, str) else value


@routes.post("/blobs/fsck")
@needs(Permission.SETTINGS_READ)
def check_blobs(_caller: InstallationCaller, platform: ThePlatform) -> BlobsOut:
    """Read every blob, and compare it with its name and with what refers to it."""
    damage = check(platform.ledger, platform.blobs)
    return BlobsOut(ok=is_sound(damage), damage=[DamageOut.of(found) for found in damage])


@probes.get("/readyz")
@needs(PUBLIC)
def ready(platform: ThePlatform) -> ReadyOut:
    """Whether the control plane can do its work: 200, or 503 with the reason."""
    position, _head = platform.ledger.head()
    if position < 0:
        raise Unavailable("The ledger does not answer.", hint="Look at the process's log.")
    return ReadyOut(status="ready")
