"""`make` by itself, and what it says where it cannot set up."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from wine_quality.config import ROOT
from wine_quality.ports import free_port

pytestmark = pytest.mark.slow


@pytest.fixture
def checkout(tmp_path) -> Path:
    """A folder with what set-up reads, and no .venv yet."""
    for name in ("Makefile", "pyproject.toml", "requirements.txt"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def make(folder: Path, *words: str, **environment: str) -> subprocess.CompletedProcess:
    inherited = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
    return subprocess.run(
        ["make", *words], cwd=folder, env={**inherited, **environment}, capture_output=True, text=True, timeout=120
    )


def interpreter(folder: Path, script: str) -> Path:
    """A Python that behaves as `script` says, where `$PYTHON` is the one that runs the tests."""
    path = folder / "python-of-a-test"
    path.write_text(f"#!/bin/sh\nPYTHON='{sys.executable}'\n{script}\n")
    path.chmod(0o755)
    return path


def test_make_alone_lists_every_target_with_a_line_by_chapter():
    targets = re.search(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1].split()
    lines = make(ROOT).stdout.splitlines()
    assert [line for line in lines if re.match(r"Chapters? \d", line)]
    listed = [line.split(maxsplit=2) for line in lines if line.startswith("  make ")]
    assert sorted(target for _, target, _ in listed) == sorted(targets)
    assert all(len(line) > 9 for _, _, line in listed)


def test_a_python_out_of_range_ends_in_one_line(checkout):
    old = interpreter(
        checkout, """exec "$PYTHON" -c 'import sys; sys.version_info = (3, 10, 9); exec(sys.argv[1])' "$2\""""
    )
    done = make(checkout, "run", f"PYTHON={old}")
    assert done.returncode != 0
    assert done.stdout == ""
    line, makes_own = done.stderr.splitlines()
    assert line.startswith(f"error: Python 3.11, 3.12 or 3.13 is needed, and none of '{old}' is one. Install it")
    assert makes_own.startswith("make: ***")
    assert not (checkout / ".venv").exists()


def test_a_python_without_venv_ends_in_one_line(checkout):
    bare = interpreter(
        checkout, """[ "$1" = -m ] && { echo "No module named $2" >&2; exit 1; }\nexec "$PYTHON" "$@\""""
    )
    done = make(checkout, "test", f"PYTHON={bare}")
    assert done.returncode != 0
    line, makes_own = done.stderr.splitlines()
    assert line.startswith(f"error: {bare} has no venv module. Install it (on Debian and Ubuntu: sudo apt install")
    assert makes_own.startswith("make: ***")


def test_no_network_at_install_ends_in_one_line(checkout):
    nobody = f"http://127.0.0.1:{free_port()}/simple"
    cut = {"PIP_INDEX_URL": nobody, "PIP_FIND_LINKS": "", "PIP_NO_CACHE_DIR": "1", "UV_DEFAULT_INDEX": nobody}
    done = make(checkout, "setup", f"PYTHON={sys.executable}", **cut)
    assert done.returncode != 0
    line, makes_own = done.stderr.splitlines()
    assert line == "error: packages could not be installed. Is there a network? The details are in .local/setup.log"
    assert makes_own.startswith("make: ***")
    assert nobody in (checkout / ".local" / "setup.log").read_text()
    assert not (checkout / ".venv" / ".ready").exists()
