"""The commit that a run is tagged with is that of this checkout, or none."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from wine_quality import tracking

COMMITTER = {f"GIT_{who}_{what}": "a test" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")


def git(folder: Path, *words: str) -> str:
    environment = {**os.environ, **COMMITTER, "GIT_CONFIG_GLOBAL": os.devnull}
    done = subprocess.run(["git", *words], cwd=folder, env=environment, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path, monkeypatch) -> Path:
    """A repository with one commit, in a path that only UTF-8 can spell, taken for the checkout."""
    folder = tmp_path / "Grüner Veltliner"
    (folder / "inner").mkdir(parents=True)
    (folder / "inner" / "file").write_text("one")
    git(folder, "init", "-q")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "one")
    monkeypatch.setattr(tracking, "ROOT", folder)
    return folder


def test_it_is_the_commit_of_the_checkout_and_says_where_files_differ(repository):
    head = git(repository, "rev-parse", "HEAD")
    assert tracking.git_commit() == head
    (repository / "inner" / "file").write_text("two")
    assert tracking.git_commit() == f"{head}-dirty"


def test_in_a_folder_of_another_repository_it_is_unknown(repository, monkeypatch):
    monkeypatch.setattr(tracking, "ROOT", repository / "inner")
    assert tracking.git_commit() == "unknown"


def test_outside_git_it_is_unknown_also_in_the_hook_of_another_repository(repository, tmp_path, monkeypatch):
    unpacked = tmp_path / "unpacked"
    unpacked.mkdir()
    monkeypatch.setattr(tracking, "ROOT", unpacked)
    assert tracking.git_commit() == "unknown"
    monkeypatch.setenv("GIT_DIR", str(repository / ".git"))
    assert tracking.git_commit() == "unknown"


def test_where_git_refuses_or_is_absent_it_is_unknown(repository, monkeypatch):
    with monkeypatch.context() as other_owner:
        other_owner.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")  # git's own switch for "dubious ownership"
        assert tracking.git_commit() == "unknown"
    monkeypatch.setenv("PATH", "")
    assert tracking.git_commit() == "unknown"
