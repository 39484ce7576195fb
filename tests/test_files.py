from pathlib import Path

import pytest

from wine_quality.errors import DataError
from wine_quality.files import atomic_write


def write(path: Path, text: str, then: Exception | None = None) -> None:
    with atomic_write(path) as part:
        part.write_text(text)
        if then:
            raise then


def test_a_block_that_ends_well_leaves_the_new_file_and_nothing_else(tmp_path):
    path = tmp_path / "best.skops"
    path.write_text("old")
    with path.open() as opened_before:
        write(path, "new")
        assert opened_before.read() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_the_folder_is_made_where_there_is_none(tmp_path):
    write(tmp_path / "a" / "b" / "c.txt", "new")
    assert (tmp_path / "a" / "b" / "c.txt").read_text() == "new"


def test_a_block_that_fails_leaves_what_stood_there_before(tmp_path):
    path = tmp_path / "best.skops"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError):
        write(path, "half", then=ZeroDivisionError())
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path, full_disk):
    path = tmp_path / "best.skops"
    with pytest.raises(DataError) as caught:
        write(path, "half", then=full_disk)
    assert str(caught.value) == (
        f"{path}: cannot be used (No space left on device). Free some space or mend the permissions."
    )
    assert list(tmp_path.iterdir()) == []


def test_a_folder_without_write_permission_is_told(open_folder, without_rights):
    open_folder.chmod(0o555)
    path = open_folder / "best.skops"
    with without_rights(), pytest.raises(DataError, match=rf"^{path}: cannot be used \(Permission denied\)"):
        write(path, "new")
    assert list(open_folder.iterdir()) == []


def test_a_file_in_the_way_of_the_folder_is_told(tmp_path):
    (tmp_path / "models").touch()
    path = tmp_path / "models" / "best.skops"
    with pytest.raises(DataError, match=rf"^{path}: cannot be used"):
        write(path, "new")
