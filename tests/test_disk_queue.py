import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from servers import running, wait_until

from wine_quality import disk_queue as spool
from wine_quality.disk_queue import Spool, opened
from wine_quality.errors import DataError

HOLDER = """
import sys, time
from pathlib import Path
from wine_quality.disk_queue import Spool
kept = Spool(Path(sys.argv[1]))
kept.add(b"a line\\n")
time.sleep(600)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "spool"


@pytest.fixture
def kept(folder: Path) -> Iterator[Spool]:
    kept = Spool(folder)
    yield kept
    kept.cut()


@pytest.fixture
def other(folder: Path) -> Iterator[Spool]:
    """Another one over the same folder, as of another process."""
    other = Spool(folder)
    yield other
    other.cut()


def lines(folder: Path) -> list[bytes]:
    return b"".join(path.read_bytes() for path in sorted(folder.glob("*.jsonl"))).splitlines()


def test_what_is_added_is_on_the_disk_when_add_returns(folder, kept):
    assert kept.add(b"one\ntwo\n")
    assert kept.add(b"three\n")
    assert lines(folder) == [b"one", b"two", b"three"]
    assert kept.waiting == len(b"one\ntwo\nthree\n")
    assert len(kept.segments()) == 1


def test_a_segment_is_free_once_it_is_cut_and_held_before(kept):
    kept.add(b"one\n")
    (segment,) = kept.segments()
    assert opened(segment) is None
    kept.cut()
    with opened(segment) as file:
        assert file.read() == b"one\n"
        assert opened(segment) is None
    segment.unlink()
    assert opened(segment) is None


def test_a_segment_is_free_once_its_process_is_killed_and_held_before(folder, tmp_path):
    with running(["-c", HOLDER, str(folder)], tmp_path / "log") as process:
        wait_until(lambda: lines(folder), "the line")
        (segment,) = folder.iterdir()
        assert opened(segment) is None
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    with opened(segment) as file:
        assert file.read() == b"a line\n"


def test_two_at_once_have_a_segment_each(folder, kept, other):
    assert kept.add(b"one\n")
    assert other.add(b"two\n")
    assert kept.add(b"one\n")
    assert len(kept.segments()) == 2
    assert lines(folder) == [b"one", b"one", b"two"]


def test_a_segment_that_is_long_enough_is_followed_by_another(folder, kept, monkeypatch):
    monkeypatch.setattr(spool, "SEGMENT_BYTES", 8)
    for number in range(4):
        assert kept.add(f"line {number}\n".encode() * 2)
    assert lines(folder) == [f"line {number}".encode() for number in range(4) for _ in range(2)]
    assert len(kept.segments()) == 4
    assert kept.segment is None


@pytest.mark.parametrize("room", [0, 1, 8, 13])
def test_on_a_full_disk_all_lines_are_kept_or_none(folder, kept, caplog, room):
    assert kept.add(b"before\n")
    with largest_file(len(b"before\n") + room):
        assert not kept.add(b"line 1\nline 2\n")
        assert not kept.add(b"line 3\nline 4\n")
        assert lines(folder) == [b"before"]
    assert kept.add(b"after\n")
    assert kept.add(b"after\n")
    assert lines(folder) == [b"before", b"after", b"after"]
    begin, end = caplog.messages
    assert begin.startswith(f"{folder}: predictions are not kept (")
    assert end == f"{folder}: works again"


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Let no file grow over a size in the block, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_folder_that_cannot_be_written_to_keeps_nothing_until_it_can(folder, kept, caplog):
    folder.rmdir()
    folder.touch()
    assert not kept.add(b"one\n")
    assert not kept.add(b"one\n")
    assert caplog.messages == [
        f"{folder}: predictions are not kept (File exists). Free some space or start the database."
    ]
    folder.unlink()
    assert kept.add(b"two\n")
    assert lines(folder) == [b"two"]


def test_a_spool_has_a_bound_over_all_processes_and_takes_more_once_it_is_emptied(folder, kept, other, monkeypatch):
    monkeypatch.setattr(spool, "SPOOL_BYTES", 10)
    assert other.add(b"other\n")
    kept.measure()
    assert kept.add(b"one\n")
    assert not kept.add(b"two\n")
    assert kept.trouble.now.startswith("predictions are not kept (0.0 GB wait for the database already)")
    other.segments()[0].unlink()
    kept.measure()
    assert kept.add(b"two\n")
    assert lines(folder) == [b"one", b"two"]


def test_a_folder_that_cannot_be_made_is_told(folder):
    folder.touch()
    with pytest.raises(DataError, match=r"spool: cannot be used \(File exists\)"):
        Spool(folder)
