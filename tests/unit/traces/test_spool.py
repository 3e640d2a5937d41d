"""The spool: whole records come out once, in order; what is torn is lost alone; what is full sheds and counts."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detent.kernel.errors import BadSettings, InvalidInput, StorageFailed, TooLarge
from detent.kernel.telemetry import Score, Span
from detent.traces import spool as module
from detent.traces.spool import Lag, Spool, SpoolReader, decode, encode_score, encode_span


def span(**fields: object) -> Span:
    return Span(trace_id="0" * 31 + "1", span_id="0" * 15 + "1", name="chat", start=1, end=2, **fields)  # type: ignore[arg-type]


def segments(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.seg"))


def drain(reader: SpoolReader, limit: int = 1000) -> list[bytes]:
    records: list[bytes] = []
    while batch := reader.read(limit):
        records += batch
        reader.commit()
    reader.commit()
    return records


def test_records_come_out_in_order_across_segments(tmp_path: Path) -> None:
    spool = Spool(tmp_path, writer="w1", max_bytes=1 << 20, segment_bytes=1024)
    written = [b"%05d" % number * 20 for number in range(200)]
    assert all(spool.append(record) for record in written)
    assert len(segments(tmp_path)) > 10
    reader = SpoolReader(tmp_path)
    assert reader.lag() == Lag(200 * 110, 200, 0)
    assert drain(reader, 7) == written
    assert len(segments(tmp_path)) == 1  # the one still written to
    assert reader.lag() == Lag(0, 0, 0)
    spool.close()
    assert drain(reader) == []
    assert segments(tmp_path) == []


def test_uncommitted_records_come_again_and_committed_ones_do_not(tmp_path: Path) -> None:
    spool = Spool(tmp_path, writer="w1")
    for number in range(10):
        spool.append(b"%d" % number)
    reader = SpoolReader(tmp_path)
    assert reader.read(4) == [b"0", b"1", b"2", b"3"]
    reader.commit()
    assert reader.read(3) == [b"4", b"5", b"6"]
    reader.forget()
    assert reader.read(2) == [b"4", b"5"]
    reader.close()
    again = SpoolReader(tmp_path)
    assert again.lag().records == 6
    assert drain(again) == [b"4", b"5", b"6", b"7", b"8", b"9"]


def test_only_one_reader_reads(tmp_path: Path) -> None:
    Spool(tmp_path, writer="w1").append(b"x")
    first, second = SpoolReader(tmp_path), SpoolReader(tmp_path)
    assert first.read(1) == [b"x"]
    assert second.read(1) == []
    assert second.lag().records == 1
    first.close()
    assert second.read(1) == [b"x"]


def test_full_spool_sheds_counts_and_recovers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LOOK_AGAIN", 0.0)
    spool = Spool(tmp_path, writer="w1", max_bytes=8192, segment_bytes=2048)
    taken = sum(spool.append(b"x" * 200) for _ in range(100))
    assert 30 <= taken < 40
    assert spool.shed == 100 - taken
    assert sum(path.stat().st_size for path in segments(tmp_path)) <= 8192
    reader = SpoolReader(tmp_path)
    assert reader.lag().shed == 100 - taken
    assert len(drain(reader)) == taken
    assert spool.append(b"y")
    spool.close()
    # The count belongs to the installation and outlives the process; the attribute is this object's.
    again = Spool(tmp_path, writer="w1", max_bytes=8192)
    assert again.shed == 0
    assert reader.lag().shed == 100 - taken


def test_full_disk_takes_the_cut_record_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = Spool(tmp_path, writer="w1")
    spool.append(b"before")
    real = os.write

    def cut(fd: int, data: bytes) -> int:
        return real(fd, data[:5])

    def refuse(fd: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    for failing in (cut, refuse):
        monkeypatch.setattr(os, "write", failing)
        assert not spool.append(b"lost")
        monkeypatch.undo()
    spool.append(b"after")
    assert spool.shed == 2
    assert drain(SpoolReader(tmp_path)) == [b"before", b"after"]


@settings(max_examples=25)
@given(records=st.lists(st.binary(max_size=40), min_size=1, max_size=4))
def test_every_cut_loses_only_the_torn_record(records: list[bytes], tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("spool")
    spool = Spool(folder, writer="w1")
    for record in records:
        spool.append(record)
    spool.close()
    (segment,) = segments(folder)
    whole = segment.read_bytes()
    ends = [8]
    for record in records:
        ends.append(ends[-1] + 10 + len(record))
    assert ends[-1] == len(whole)
    for cut in range(len(whole) + 1):
        other = folder / f"cut{cut}"
        other.mkdir()
        (other / segment.name).write_bytes(whole[:cut])
        reader = SpoolReader(other)
        assert drain(reader) == records[: sum(end <= cut for end in ends[1:])]
        assert segments(other) == []
        reader.close()


def test_damage_in_the_middle_loses_only_what_it_hit(tmp_path: Path) -> None:
    spool = Spool(tmp_path, writer="w1")
    for number in range(5):
        spool.append(b"record %d" % number)
    spool.close()
    (segment,) = segments(tmp_path)
    data = bytearray(segment.read_bytes())
    data[8 + 18 * 2 + 12] ^= 0xFF
    segment.write_bytes(data)
    reader = SpoolReader(tmp_path)
    assert drain(reader) == [b"record 0", b"record 1", b"record 3", b"record 4"]
    assert reader.damaged == 18


def test_a_half_written_record_of_a_living_writer_is_waited_for(tmp_path: Path) -> None:
    spool = Spool(tmp_path, writer="w1")
    spool.append(b"first")
    (segment,) = segments(tmp_path)
    spool.append(b"second")
    whole = segment.read_bytes()
    os.truncate(segment, len(whole) - 3)
    reader = SpoolReader(tmp_path)
    assert reader.read(10) == [b"first"]
    reader.commit()
    with segment.open("r+b") as file:
        file.seek(len(whole) - 3)
        file.write(whole[-3:])
    assert reader.read(10) == [b"second"]


def test_records_longer_than_a_chunk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CHUNK", 64)
    spool = Spool(tmp_path, writer="w1")
    records = [b"a" * size for size in (1, 500, 3, 64, 54, 53, 128, 0, 1000)]
    for record in records:
        assert spool.append(record)
    assert drain(SpoolReader(tmp_path)) == records


_WRITE_UNTIL_KILLED = """
import sys
from pathlib import Path
from detent.traces.spool import Spool
spool = Spool(Path(sys.argv[1]), writer="w1", segment_bytes=20_000, max_bytes=1 << 30)
number = 0
while True:
    if spool.append(b"%08d" % number * 100):
        print(number, flush=True)
        number += 1
"""


@pytest.mark.e2e
def test_kill_9_of_the_writer_loses_nothing_appended(tmp_path: Path) -> None:
    for attempt in range(10):
        folder = tmp_path / str(attempt)
        command = [sys.executable, "-c", _WRITE_UNTIL_KILLED, str(folder)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            acknowledged = [int(writer.stdout.readline()) for _ in range(50 + 37 * attempt)]
            writer.send_signal(signal.SIGKILL)
            acknowledged += [int(line) for line in writer.stdout if line.endswith(b"\n")]
        records = drain(SpoolReader(folder))
        numbers = [int(record[:8]) for record in records]
        assert numbers == list(range(len(numbers)))
        # The last record may have been written without the word getting out.
        assert len(acknowledged) <= len(numbers) <= len(acknowledged) + 1
        assert segments(folder) == []


def test_what_a_record_carries_comes_back() -> None:
    full = span(
        attributes={"a.b": 1, "list": [1, "x", None], "π": 0.5, "flag": True},
        input='[{"role":"user"}]',
        cost=0,
        ttft=5,
        stream=True,
    )
    assert decode(encode_span(full)) == full
    score = Score(id="s1", name="thumbs", value=True, source="user", time=3, trace_id="0" * 32)
    assert decode(encode_score(score)) == score


def test_lone_surrogates_are_mended() -> None:
    read = decode(encode_span(span(input="x\ud800y", attributes={"k\udfff": ["\ud900"]})))
    assert isinstance(read, Span)
    assert (read.input, read.attributes) == ("x?y", {"k?": ["?"]})


@pytest.mark.parametrize("record", [b"", b"s", b"s\xff\xff", b"z\x80", b"c\x80", encode_span(span())[:-1]])
def test_unreadable_records_are_refused(record: bytes) -> None:
    with pytest.raises(InvalidInput):
        decode(record)


def test_limits(tmp_path: Path) -> None:
    spool = Spool(tmp_path, writer="w1")
    with pytest.raises(TooLarge):
        spool.append(bytes(module.MAX_RECORD + 1))
    spool.close()
    spool.close()
    with pytest.raises(StorageFailed):
        spool.append(b"x")
    with pytest.raises(BadSettings):
        Spool(tmp_path, writer="../x")
    with pytest.raises(BadSettings):
        Spool(tmp_path, writer="x", max_bytes=10)
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageFailed):
        Spool(tmp_path / "file", writer="x")


def test_sync_covers_ended_segments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = Spool(tmp_path, writer="w1", max_bytes=1 << 20, segment_bytes=1024)
    for _ in range(30):
        spool.append(b"x" * 100)
    synced: list[str] = []
    real = os.fdatasync

    def remember(fd: int) -> None:
        synced.append(Path(f"/proc/self/fd/{fd}").readlink().name)
        real(fd)

    monkeypatch.setattr(os, "fdatasync", remember)
    spool.sync()
    assert sorted(synced) == [path.name for path in segments(tmp_path)]
    spool.sync()
    assert len(synced) == len(segments(tmp_path)) + 1  # only the current one again


def test_a_sync_without_descriptors_loses_sight_of_no_segment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = Spool(tmp_path, writer="w1", max_bytes=1 << 20, segment_bytes=1024)
    for _ in range(30):
        spool.append(b"x" * 100)

    def refuse(_fd: int) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as patched:
        patched.setattr(os, "dup", refuse)
        with pytest.raises(StorageFailed, match="Too many open files"):
            spool.sync()
    synced: list[int] = []
    monkeypatch.setattr(os, "fdatasync", synced.append)
    spool.sync()
    assert len(synced) == len(segments(tmp_path))
