import pytest

from wine_quality.errors import DataError
from wine_quality.files import whole_file


def test_a_block_that_ends_well_leaves_the_new_file_and_nothing_else(tmp_path):
    path = tmp_path / "models" / "best.skops"
    path.parent.mkdir()
    path.write_text("old")
    with whole_file(path) as part:
        part.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(path.parent.iterdir()) == [path]


def test_the_folder_is_made_where_there_is_none(tmp_path):
    path = tmp_path / "a" / "b" / "c.txt"
    with whole_file(path) as part:
        part.write_text("new")
    assert path.read_text() == "new"


def test_a_block_that_fails_leaves_what_stood_there_before(tmp_path):
    path = tmp_path / "best.skops"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), whole_file(path) as part:
        part.write_text("half")
        raise ZeroDivisionError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path, full_disk):
    path = tmp_path / "best.skops"
    with pytest.raises(DataError) as caught, whole_file(path) as part:
        part.write_text("half")
        raise full_disk
    assert str(caught.value) == (
        f"{path}: cannot be written (No space left on device). Free some space or mend the permissions."
    )
    assert list(tmp_path.iterdir()) == []


def test_a_folder_without_write_permission_is_told(open_folder, without_rights):
    open_folder.chmod(0o555)
    with (
        without_rights(),
        pytest.raises(DataError, match=rf"^{open_folder}/a: cannot be written \(Permission denied\)"),
    ):
        with whole_file(open_folder / "a") as part:
            part.write_text("new")
    open_folder.chmod(0o755)


def test_a_file_in_the_way_of_the_folder_is_told(tmp_path):
    (tmp_path / "models").touch()
    path = tmp_path / "models" / "best.skops"
    with pytest.raises(DataError, match=rf"^{path}: cannot be written"), whole_file(path) as part:
        part.write_text("new")
