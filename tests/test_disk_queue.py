import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from faults import largest_file
from servers import running, wait_until

from wine_quality import disk_queue
from wine_quality.disk_queue import DiskQueue, open_segment
from wine_quality.errors import DataError

HOLDER = """
import sys, time
from pathlib import Path
from wine_quality.disk_queue import DiskQueue
queue = DiskQueue(Path(sys.argv[1]))
queue.add(b"a line\\n")
time.sleep(600)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "queue"


@pytest.fixture
def queue(folder: Path) -> Iterator[DiskQueue]:
    queue = DiskQueue(folder)
    yield queue
    queue.release()


@pytest.fixture
def other(folder: Path) -> Iterator[DiskQueue]:
    """Another one over the same folder, as of another process."""
    other = DiskQueue(folder)
    yield other
    other.release()


def lines(folder: Path) -> list[bytes]:
    return b"".join(path.read_bytes() for path in sorted(folder.glob("*.jsonl"))).splitlines()


def test_what_is_added_is_on_the_disk_when_add_returns_and_two_at_once_have_a_segment_each(folder, queue, other):
    assert queue.add(b"one\ntwo\n")
    assert queue.add(b"three\n")
    assert lines(folder) == [b"one", b"two", b"three"]
    assert queue.bytes == len(b"one\ntwo\nthree\n")
    assert len(queue.segments()) == 1
    assert other.add(b"other\n")
    assert queue.add(b"four\n")
    assert len(queue.segments()) == 2
    assert lines(folder) == [b"one", b"two", b"three", b"four", b"other"]


def test_a_segment_is_free_once_it_is_released_and_held_before(queue):
    queue.add(b"one\n")
    (segment,) = queue.segments()
    assert open_segment(segment) is None
    queue.release()
    with open_segment(segment) as file:
        assert file.read() == b"one\n"
        assert open_segment(segment) is None
    segment.unlink()
    assert open_segment(segment) is None


def test_a_segment_is_free_once_its_process_is_killed_and_held_before(folder, tmp_path):
    with running(["-c", HOLDER, str(folder)], tmp_path / "log") as process:
        wait_until(lambda: lines(folder), "the line")
        (segment,) = folder.iterdir()
        assert open_segment(segment) is None
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    with open_segment(segment) as file:
        assert file.read() == b"a line\n"


def test_a_segment_that_is_long_enough_is_followed_by_another(folder, queue, monkeypatch):
    monkeypatch.setattr(disk_queue, "SEGMENT_BYTES", 8)
    for number in range(4):
        assert queue.add(f"line {number}\n".encode() * 2)
    assert lines(folder) == [f"line {number}".encode() for number in range(4) for _ in range(2)]
    assert len(queue.segments()) == 4
    assert queue.segment is None


@pytest.mark.parametrize("room", [0, 1, 8, 13])
def test_on_a_full_disk_all_lines_are_stored_or_none(folder, queue, caplog, room):
    assert queue.add(b"before\n")
    with largest_file(len(b"before\n") + room):
        assert not queue.add(b"line 1\nline 2\n")
        assert not queue.add(b"line 3\nline 4\n")
        assert lines(folder) == [b"before"]
    assert queue.add(b"after\n")
    assert queue.add(b"after\n")
    assert lines(folder) == [b"before", b"after", b"after"]
    begin, end = caplog.messages
    assert begin.startswith(f"{folder}: predictions are not stored (")
    assert end == f"{folder}: works again"


def test_a_folder_that_cannot_be_written_to_stores_nothing_until_it_can(folder, queue, caplog):
    folder.rmdir()
    folder.touch()
    assert not queue.add(b"one\n")
    assert not queue.add(b"one\n")
    why = "predictions are not stored (File exists). Free some space or start the database."
    assert caplog.messages == [f"{folder}: {why}"]
    with pytest.raises(DataError, match=r"queue: cannot be used \(File exists\)"):
        DiskQueue(folder)
    folder.unlink()
    assert queue.add(b"two\n")
    assert lines(folder) == [b"two"]


def test_a_queue_has_a_bound_over_all_processes_and_takes_more_once_it_is_emptied(folder, queue, other, monkeypatch):
    monkeypatch.setattr(disk_queue, "MAX_BYTES", 10)
    assert other.add(b"other\n")
    queue.measure()
    assert queue.add(b"one\n")
    assert not queue.add(b"two\n")
    assert queue.outage.error.startswith("predictions are not stored (0.0 GB wait for the database already)")
    other.segments()[0].unlink()
    queue.measure()
    assert queue.add(b"two\n")
    assert lines(folder) == [b"one", b"two"]
