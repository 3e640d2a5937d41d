"""The published document. A change of it is a change for everybody who calls us."""

from __future__ import annotations

import json

from syrupy.assertion import SnapshotAssertion
from syrupy.extensions.single_file import SingleFileSnapshotExtension, WriteMode

from detent.api.document import describe


class Document(SingleFileSnapshotExtension):
    """Kept as a file of its own, readable as it is."""

    _write_mode = WriteMode.TEXT
    file_extension = "json"


def test_document(snapshot: SnapshotAssertion) -> None:
    shown = json.dumps(describe(), indent=1, sort_keys=True) + "\n"
    assert shown == snapshot(extension_class=Document, name="openapi")
