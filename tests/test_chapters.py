"""The help on the way: begin anywhere, see how far you are, clean up; each as a reader would call it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from servers import processes_at

from chapters import chapter_of, check, clean
from wine_quality import files, tracking
from wine_quality.config import ROOT, settings
from wine_quality.errors import SettingsError
from wine_quality.ports import free_port

pytestmark = pytest.mark.slow

READY = ("-o", ".venv/.ready")  # no test sets up the .venv that it runs in anew


def command(*words: str, typed: str = "", **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", *words],
        cwd=ROOT,
        env={**os.environ, **environment},
        input=typed,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.parametrize("words", [[], ["0"], ["6"], ["three"], ["3", "4"], ["-1"], ["²"]])
def test_a_chapter_that_is_none_is_told(words):
    typed = " ".join(["make start", *(f"CH={word}" for word in words)])
    with pytest.raises(SettingsError) as caught:
        chapter_of(words, "start")
    assert str(caught.value) == f"{typed}: which chapter? Give a number from 1 to 5, as in: make start CH=3"


@pytest.mark.long
def test_from_nothing_to_the_last_chapter_with_a_dead_proxy_and_what_is_left_to_do_there(tmp_path, few_wines):
    ports = {f"WINE_{name}_PORT": str(free_port()) for name in ("PREFECT", "MLFLOW", "S3", "SERVE")}
    nobody = f"http://127.0.0.1:{free_port()}"
    proxies = dict.fromkeys(
        ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"), nobody
    )
    own = {"WINE_DATA": str(few_wines), "WINE_HOME": str(tmp_path), **ports, **proxies}
    first = command("chapters.check", "4", **own)
    assert (first.returncode, first.stderr) == (0, "")
    assert "missing   champion: none" in first.stdout
    assert first.stdout.endswith("next      make run\n")
    started = command("chapters.start", "5", **own)
    assert started.returncode == 0, started.stdout + started.stderr
    for line in (
        "start     orchestration.train",
        "deploy    nightly: ",
        "scored    ",
        "ready     for chapter 5: ",
    ):
        assert f"\n{line}" in started.stdout
    assert not processes_at(tmp_path)
    then = command("chapters.check", "4", **own)
    assert "done      champion: version 1" in then.stdout
    assert "missing   the service: away" in then.stdout
    assert "done      predictions stored: " in then.stdout
    assert then.stdout.endswith("next      run make serve in another terminal\n")
    again = command("chapters.start", "3", **own)
    assert "orchestration.train" not in again.stdout
    third = command("chapters.check", "3", **own)
    assert "done      runs in the bucket: 1" in third.stdout
    assert third.stdout.endswith("next      run make up in another terminal\n")


def test_the_first_chapters_are_looked_at_without_a_server(tmp_path, few_wines):
    own = {"WINE_DATA": str(few_wines), "WINE_HOME": str(tmp_path)}
    for chapter, missing in (
        ("1", "models of notebook 2: none"),
        ("2", "runs in MLflow: 0"),
        ("5", "the simulation, complete"),
    ):
        done = command("chapters.check", chapter, **own)
        assert (done.returncode, done.stderr) == (0, "")
        assert f"missing   {missing}" in done.stdout


def test_what_comes_with_the_checkout_is_not_taken_for_what_the_reader_did(tmp_path, few_wines):
    shutil.copytree(ROOT / "images", tmp_path / "images")
    own = {"WINE_DATA": str(few_wines), "WINE_HOME": str(tmp_path)}
    assert "missing   the figure of notebook 3" in command("chapters.check", "1", **own).stdout
    (tmp_path / ".local" / "three-worlds.png").touch()
    assert "done      the figure of notebook 3" in command("chapters.check", "1", **own).stdout


def test_what_make_run_leaves_is_not_taken_for_the_runs_of_the_notebooks(config, store):
    with (
        tracking.running(store, "search", {}) as parent,
        tracking.running(store, "trial-00-svr", {"mlflow.parentRunId": parent}),
    ):
        pass
    missing = {found.what for found in check.experiment_tracking(config) if not found.there}
    assert {"runs in MLflow: 1", "trials of a search: 1"} <= missing
    with tracking.running(store, "first-forest", {}):
        pass
    assert "runs in MLflow: 2" in {found.what for found in check.experiment_tracking(config) if found.there}


@pytest.mark.parametrize("target", ["check", "start"])
def test_make_names_the_command_as_it_was_typed(target):
    done = subprocess.run(["make", *READY, target, "CH=abc"], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.stderr.splitlines()[0] == (
        f"error: make {target} CH=abc: which chapter? Give a number from 1 to 5, as in: make {target} CH=3"
    )


def test_make_calls_nothing_an_error_where_something_is_missing(tmp_path, few_wines):
    own = {**os.environ, "WINE_DATA": str(few_wines), "WINE_HOME": str(tmp_path)}
    done = subprocess.run(
        ["make", *READY, "check", "CH=1"], cwd=ROOT, env=own, capture_output=True, text=True, timeout=300
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "missing   " in done.stdout


def test_every_chapter_has_its_check_and_its_page():
    assert set(check.CHECKS) == set(range(1, 6))


@pytest.fixture
def full_home(tmp_path) -> Path:
    """A home with something of everything that is made, and a file of the reader's own."""
    for name in ("mlflow.db", "predictions.db", "models/mine.skops", "mlruns/1/meta", ".local/s3/object", "notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("something")
    return tmp_path


def there(home: Path) -> list[Path]:
    return sorted(path for path in home.rglob("*") if path.suffix != ".lock")


def test_clean_lists_and_asks_and_takes_nothing_away_without_a_yes(full_home):
    before = there(full_home)
    for typed in ("", "no\n", "y\n"):
        done = command("chapters.clean", typed=typed, WINE_HOME=str(full_home))
        assert done.returncode == 1
        assert "mlflow.db" in done.stdout
        assert done.stdout.endswith("nothing was taken away\n")
    assert there(full_home) == before


def test_clean_takes_away_what_was_made_and_nothing_else(full_home):
    done = command("chapters.clean", typed="yes\n", WINE_HOME=str(full_home))
    assert (done.returncode, done.stdout.splitlines()[-1][-4:]) == (0, "done")
    assert sorted(path.name for path in full_home.iterdir()) == ["models", "notes.txt"]
    assert "nothing to delete" in command("chapters.clean", WINE_HOME=str(full_home)).stdout


def test_clean_leaves_a_home_alone_in_which_servers_run(full_home, monkeypatch):
    monkeypatch.setenv("WINE_HOME", str(full_home))
    with files.exclusive_lock(full_home / ".local" / "up.lock"):
        monkeypatch.setattr(clean, "is_up", lambda _: files.is_locked(settings().local / "up.lock"))
        with pytest.raises(Exception, match="make up is running on what would be taken away"):
            clean.main()
    assert (full_home / "mlflow.db").exists()
