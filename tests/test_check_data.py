"""`make data`, and the check that `make run` makes before it starts anything."""

import subprocess
import sys

import pytest
from servers import command

from wine_quality import sources
from wine_quality.check_data import summary


@pytest.fixture
def wine_folder(monkeypatch, tmp_path, wines, write_uci):
    """A folder with seven rows, set as WINE_DATA; the last row duplicates the first."""
    folder = write_uci(tmp_path / "wine", wines.iloc[[0, 1, 2, 3, 4, 5, 0]])
    monkeypatch.setenv("WINE_DATA", str(folder))
    return folder


def test_rows_duplicates_blanks_and_colours_are_counted(wines):
    table = wines.iloc[[0, 1, 2, 3, 4, 5, 0]].reset_index(drop=True)
    table.loc[[1, 2], "sulphates"] = None
    assert summary(sources.Dataset(table, "folder", "a test")) == [
        "source      a test",
        "rows        7",
        "duplicates  1 (same type and measurements as an earlier row)",
        "blanks      2 cells (2 sulphates)",
        "colours     4 red, 3 white",
    ]


def test_the_command_prints_a_summary_but_nothing_before_a_run(wine_folder):
    done, before_run = command("wine_quality.check_data"), command("wine_quality.check_data", "--only-mine")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"source      the files in {wine_folder}\nrows        7\nduplicates  1 (same" in done.stdout
    assert (before_run.returncode, before_run.stdout, before_run.stderr) == (0, "", "")


@pytest.mark.parametrize("words", [[], ["--only-mine"]])
def test_invalid_data_is_reported_in_one_line(wine_folder, words):
    path = wine_folder / "winequality-red.csv"
    path.write_text(path.read_text().replace("9.75", "975"))
    done = command("wine_quality.check_data", *words)
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: {path}: ")
    assert "alcohol" in line


def test_it_imports_neither_prefect_nor_mlflow():
    code = "import sys, wine_quality.check_data; print(*({'prefect', 'mlflow', 'sklearn'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "\n"


@pytest.mark.slow
def test_make_run_reports_invalid_data_before_it_starts_anything(wine_folder, tmp_path):
    (wine_folder / "winequality-white.csv").unlink()
    done = command("make", "run")
    assert done.returncode != 0
    assert "winequality-white.csv is missing" in done.stderr
    assert "start" not in done.stdout
    assert not (tmp_path / "mlflow.db").exists()
