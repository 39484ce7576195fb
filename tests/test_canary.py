"""The canary: which versions it tries, what it takes for an error, and the table that it writes."""

import subprocess
import sys
import tomllib

import pytest
from packaging.requirements import Requirement

from benchmarks import canary
from wine_quality.config import ROOT

BOTH = {"alpha": "2.0", "beta": "1.5"}


class Clone:
    """A checkout in which two versions fail the main job, alone or with others."""

    def __init__(self, broken: dict[str, str], together: str = "") -> None:
        self.broken, self.together, self.newer = broken, together, {}

    def install(self, newer: dict[str, str]) -> str:
        self.newer = newer
        return ""

    def run(self, command: list[str]) -> tuple[str, str]:
        return "", next((self.broken[name] for name in self.newer if name in self.broken), "")

    def first_failure(self, newer: dict[str, str]) -> tuple[list[str], str]:
        self.install(newer)
        return ["make", "run"], self.run([])[1] or (self.together if len(newer) > 1 else "")


def test_a_requirement_keeps_its_extras_and_loses_its_bound_and_marker():
    listed = [Requirement(f"{name}<2; python_version > '3'") for name in ("alpha", "beta[extra]")]
    wanted = canary.at_versions({one.name: one for one in listed}, {"beta": "1.0"})
    assert [str(Requirement(words)) for words in wanted] == ["alpha", "beta[extra]==1.0"]


def test_every_direct_dependency_of_this_platform_is_pinned():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(canary.direct()) <= set(canary.pins((ROOT / "requirements.txt").read_text()))
    assert len(canary.direct()) < len(project["dependencies"] + project["optional-dependencies"]["dev"])


ALONE = "alone it works; with all newer versions together: error: no"
LATE = f"{canary.NOT_TRIED}; with all newer versions together: ImportError"


@pytest.mark.parametrize(
    ("broken", "together", "late", "alpha", "beta"),
    [
        ({}, "", [], canary.WORKS, canary.WORKS),
        ({"beta": "ImportError: gone"}, "", [], canary.WORKS, "ImportError: gone"),
        ({}, "error: no", [], ALONE, ALONE),
        ({"beta": "ImportError"}, "", [False, False, True], canary.WORKS, LATE),
        ({}, "", [True] * 9, canary.NOT_TRIED, canary.NOT_TRIED),
    ],
)
def test_versions_that_work_together_are_tried_once_and_others_alone_while_there_is_time(
    broken, together, late, alpha, beta
):
    is_late = iter(late or [False] * 9)
    assert canary.verify(Clone(broken, together), BOTH, lambda: next(is_late)) == {"alpha": alpha, "beta": beta}
    assert not canary.is_broken(LATE)


@pytest.mark.parametrize(
    ("output", "line"),
    [
        ("start\nmake: *** [run] Error 1\nerror: no wine. Look there.\n", "error: no wine. Look there."),
        ("E   x\nFAILED tests/test_a.py::b - ValueError: no\n1 failed", "FAILED tests/test_a.py::b - ValueError: no"),
        ("Traceback\n  File\nImportError: cannot import name 'x'\n", "ImportError: cannot import name 'x'"),
        ("ImportError while loading conftest\nE   x.SomeWarning: old", "x.SomeWarning: old"),
        ("something else", "something else"),
    ],
)
def test_the_line_that_says_most_is_the_error(output, line):
    assert canary.error_line(output) == line


def test_the_cause_of_no_solution_is_one_line():
    output = """error: No solution found when resolving dependencies
      cause: Because there is no version of small==3 and big==3 depends on small==3, we can conclude that big cannot.
             And because you require big==3, we can conclude that your requirements are unsatisfiable.
    """
    assert canary.cause(output) == "there is no version of small==3 and big==3 depends on small==3"


def test_the_table_replaces_what_stands_between_the_markers():
    pinned = {"alpha": "1.0", "beta": "1.0", "gamma": "1.0"}
    text = canary.table(pinned, pinned | BOTH, {"alpha": "works", "beta": "a|b"}, pinned)
    page = canary.between_markers(f"above\n{canary.BEGIN}\nold\n{canary.END}\nbelow\n", text)
    assert page.startswith(f"above\n{canary.BEGIN}\n\nLast verified on ")
    assert page.endswith(f"{canary.END}\nbelow\n")
    assert "old" not in page
    rows = ["| alpha | 1.0 | 2.0 | works |", "| beta | 1.0 | 1.5 | a¦b |", "| gamma | 1.0 | 1.0 | pinned |"]
    assert text.splitlines()[-3:] == rows


def test_a_command_that_does_not_end_is_an_error_of_the_checkout(tmp_path):
    subprocess.run(["git", "init", "-q", tmp_path / "clone"], check=True)
    clone = object.__new__(canary.Checkout)
    clone.folder, clone.environment = tmp_path / "clone", {}
    assert clone.run([sys.executable, "-c", "print('done')"], 60) == ("done\n", "")
    assert "did not end" in clone.run(["sleep", "60"], 0.1)[1]
