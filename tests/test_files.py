import pytest

from wine_quality.errors import DataError
from wine_quality.files import atomic_write


def write(path, text, then=None):
    with atomic_write(path) as part:
        part.write_text(text)
        if then:
            raise then


@pytest.fixture
def path(tmp_path):
    """A file in a folder of its own."""
    path = tmp_path / "a" / "b" / "best.skops"
    write(path, "old")
    return path


def test_a_block_that_ends_well_leaves_the_new_file_and_nothing_else(path):
    with path.open() as opened_before:
        write(path, "new")
        assert opened_before.read() == "old"
    assert path.read_text() == "new"
    assert list(path.parent.iterdir()) == [path]


def test_a_block_that_fails_leaves_what_stood_there_before(path, full_disk):
    with pytest.raises(ZeroDivisionError):
        write(path, "half", then=ZeroDivisionError())
    with pytest.raises(DataError) as caught:
        write(path, "half", then=full_disk)
    why = "cannot be used (No space left on device). Free some space or fix the permissions."
    assert str(caught.value) == f"{path}: {why}"
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]


def test_a_folder_without_write_permission_or_with_a_file_in_its_way_is_an_error(open_folder, path, without_rights):
    open_folder.chmod(0o555)
    new = open_folder / "best.skops"
    with without_rights(), pytest.raises(DataError, match=rf"^{new}: cannot be used \(Permission denied\)"):
        write(new, "new")
    assert list(open_folder.iterdir()) == []
    with pytest.raises(DataError, match=rf"^{path}/best\.skops: cannot be used"):
        write(path / "best.skops", "new")
