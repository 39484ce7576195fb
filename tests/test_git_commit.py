"""The commit that a run is tagged with: that of this checkout, or `unknown`."""

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
    """A repository with one commit, with a path that needs UTF-8, in place of the checkout."""
    folder = tmp_path / "Grüner Veltliner"
    (folder / "inner").mkdir(parents=True)
    (folder / "inner" / "file").write_text("one")
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "one"]):
        git(folder, *words)
    monkeypatch.setattr(tracking, "ROOT", folder)
    return folder


def test_it_is_the_commit_of_the_checkout_marked_as_dirty_if_files_were_changed(repository):
    head = git(repository, "rev-parse", "HEAD")
    assert tracking.git_commit() == head
    (repository / "inner" / "file").write_text("two")
    assert tracking.git_commit() == f"{head}-dirty"


@pytest.mark.parametrize(
    ("folder", "variable", "value"),
    [
        ("Grüner Veltliner/inner", "", ""),  # a folder of another repository
        ("", "", ""),  # outside git
        ("", "GIT_DIR", "Grüner Veltliner/.git"),  # in the hook of another repository
        ("Grüner Veltliner", "GIT_TEST_ASSUME_DIFFERENT_OWNER", "1"),  # git's own switch for "dubious ownership"
        ("Grüner Veltliner", "PATH", ""),  # git is absent
    ],
)
def test_outside_the_checkout_or_if_git_fails_it_is_unknown(repository, monkeypatch, folder, variable, value):
    monkeypatch.setattr(tracking, "ROOT", repository.parent / folder)
    if variable:
        monkeypatch.setenv(variable, str(repository.parent / value) if variable == "GIT_DIR" else value)
    assert tracking.git_commit() == "unknown"
