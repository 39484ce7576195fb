"""The workflow of hosted CI: what it may do, and that it fits the Makefile."""

import re

import yaml

from wine_quality.config import ROOT

MAKEFILE = (ROOT / "Makefile").read_text()
WORKFLOW = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
STEPS = [step for job in WORKFLOW["jobs"].values() for step in job["steps"]]


def test_the_workflow_may_only_read_and_keeps_no_token():
    assert WORKFLOW["permissions"] == {"contents": "read"}
    assert not [job for job in WORKFLOW["jobs"].values() if "permissions" in job]
    checkouts = [step for step in STEPS if step.get("uses", "").startswith("actions/checkout@")]
    assert [step["with"]["persist-credentials"] for step in checkouts] == [False] * len(WORKFLOW["jobs"])


def test_the_workflow_runs_commands_of_the_makefile_on_every_python_that_it_admits():
    commands = [match[1] for step in STEPS if (match := re.match(r"make ([a-z-]+)", step.get("run", "")))]
    assert commands == ["lint", "run", "test", "canary"]
    assert not [command for command in commands if not re.search(rf"^{command}:.*## ", MAKEFILE, re.MULTILINE)]
    pythons = WORKFLOW["jobs"]["test"]["strategy"]["matrix"]["python"]
    assert set(pythons) == set(re.findall(r"python(3\.\d+)", re.search(r"^PYTHONS = .*$", MAKEFILE, re.MULTILINE)[0]))


def test_only_the_job_that_publishes_the_book_may_write_and_it_checks_out_nothing():
    book = yaml.safe_load((ROOT / ".github" / "workflows" / "book.yml").read_text())
    build, publish = book["jobs"]["build"], book["jobs"]["publish"]
    assert (book[True], book["permissions"]) == ("workflow_dispatch", {"contents": "read"})  # YAML reads `on` as True
    assert "permissions" not in build
    assert build["steps"][0]["with"] == {"persist-credentials": False}
    assert publish["permissions"] == {"pages": "write", "id-token": "write"}
    assert [step["uses"].partition("@")[0] for step in publish["steps"]] == ["actions/deploy-pages"]
