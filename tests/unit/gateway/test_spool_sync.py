"""The worker's spool reaches the disk while it serves, and a disk that refuses does not end that."""

from __future__ import annotations

import errno
import logging
import os
import threading
import time
from pathlib import Path

import pytest

from detent.gateway.worker import sync_often
from detent.traces.spool import Spool


def test_a_disk_that_refuses_is_told_once_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tried: list[int] = []

    def sync(fd: int) -> None:
        tried.append(fd)
        if len(tried) <= 3:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fdatasync", sync)
    spool, over = Spool(tmp_path, writer="w1"), threading.Event()
    thread = threading.Thread(target=sync_often, args=(spool, over, 0.001))
    with caplog.at_level(logging.ERROR, logger="detent.gateway"):
        thread.start()
        deadline = time.monotonic() + 20
        while len(tried) < 6 and time.monotonic() < deadline:
            time.sleep(0.001)
        over.set()
        thread.join()
    spool.close()
    assert len(tried) >= 6
    assert [record.getMessage() for record in caplog.records] == [
        "The spool cannot be put on the disk: Input/output error."
    ]
