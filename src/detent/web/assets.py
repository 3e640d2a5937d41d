"""The bundled scripts and styles, found through the manifest that tools/assets.py writes beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

DIST: Final = Path(__file__).parent / "static" / "dist"


class Manifest(msgspec.Struct, frozen=True):
    """Entry name to the file that holds it, whose name carries a hash of its content."""

    files: dict[str, str] = {}

    def url(self, name: str) -> str:
        """Where the browser fetches an entry; empty when it was not built."""
        found = self.files.get(name, "")
        return f"/static/{found}" if found else ""


def read_manifest(folder: Path = DIST) -> Manifest:
    """What was built; an empty manifest when nothing was, so that pages can say so instead of failing."""
    try:
        return msgspec.json.decode((folder / "manifest.json").read_bytes(), type=Manifest)
    except (OSError, msgspec.MsgspecError):
        return Manifest()
