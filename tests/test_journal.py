import os
import subprocess
import sys

import pytest

from wine_quality.errors import DataError, SearchError
from wine_quality.journal import Journal


def test_lines_are_there_again_when_the_file_is_opened_again(tmp_path):
    path = tmp_path / "folder" / "kept.jsonl"
    with Journal(path) as journal:
        journal.add({"trial": 1})
        journal.add({"trial": 2})
    with Journal(path) as journal:
        assert journal.lines == [{"trial": 1}, {"trial": 2}]


def test_a_line_that_was_torn_is_dropped_and_the_next_one_is_whole(tmp_path):
    path = tmp_path / "kept.jsonl"
    path.write_bytes(b'{"trial": 1}\n{"trial": 2')
    with Journal(path) as journal:
        assert journal.lines == [{"trial": 1}]
        journal.add({"trial": 3})
    assert path.read_bytes() == b'{"trial": 1}\n{"trial": 3}\n'


def test_a_broken_line_in_the_midst_is_told_and_the_file_is_as_it_was(tmp_path):
    path = tmp_path / "kept.jsonl"
    path.write_bytes(b'{"trial": 1}\nscribble\n{"trial": 3}\n')
    with pytest.raises(DataError, match=r"kept\.jsonl: line 2 cannot be read\. Take the file away"):
        Journal(path)
    assert path.read_bytes() == b'{"trial": 1}\nscribble\n{"trial": 3}\n'


def test_a_second_process_is_refused_until_the_first_has_closed_it(tmp_path):
    path = tmp_path / "kept.jsonl"
    code = f"from pathlib import Path; from wine_quality.journal import Journal; Journal(Path({str(path)!r}))"
    with Journal(path), pytest.raises(SearchError, match="is running already"):
        Journal(path)
    with Journal(path):
        assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 1
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


def test_a_full_disk_is_told_in_one_line(tmp_path, monkeypatch, full_disk):
    def fail(_descriptor):
        raise full_disk

    monkeypatch.setattr(os, "fsync", fail)
    with Journal(tmp_path / "kept.jsonl") as journal:
        with pytest.raises(DataError, match=r"kept\.jsonl: cannot be used \(No space left on device\)"):
            journal.add({"trial": 1})
        assert journal.lines == []
