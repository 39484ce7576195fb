"""Six weeks of the replay on real servers: what each special week does, and a replay that is killed and goes on."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from conftest import CLEAN
from mlflow import MlflowClient
from receiver import Receiver, receiver
from servers import processes_at, running, wait_until

from monitoring import records
from monitoring.records import Record
from wine_quality import registry, tracking
from wine_quality.config import ROOT, Settings, settings

pytestmark = pytest.mark.slow

SEED = "7"  # of the sample: with it the first six weeks have all that a year has


@dataclass(frozen=True)
class Lived:
    """A replay that has ended."""

    home: Path
    lines: str
    summary: dict
    records: list[Record]
    told: list[dict]

    @property
    def config(self) -> Settings:
        """The settings of the year's own home."""
        return settings(home=self.home / "monitoring" / "year")

    def week(self, number: int) -> Record:
        return self.records[number - 1]

    def champion_after(self, number: int) -> str:
        journal = (self.config.local / "year.jsonl").read_text().splitlines()
        return json.loads(journal[number - 1])["champion"]


def environment(home: Path) -> dict[str, str]:
    return {**CLEAN, "WINE_HOME": str(home), "WINE_DATA": "sample", "WINE_SEED": SEED}


def replay(home: Path, **more: str) -> str:
    """Replay six weeks to their end, and return what is printed."""
    done = subprocess.run(
        [sys.executable, "-m", "monitoring.simulation.servers", "--short"],
        cwd=ROOT,
        env={**os.environ, **environment(home), **more},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def read(home: Path, lines: str, told: list[dict]) -> Lived:
    year = home / "monitoring" / "year"
    found = records.records(settings(home=year))
    return Lived(home, lines, json.loads((year / "summary.json").read_text()), found, told)


@pytest.fixture(scope="module")
def chat() -> Iterator[Receiver]:
    with receiver() as server:
        server.answers = [503, 503]
        yield server


@pytest.fixture(scope="module")
def lived(tmp_path_factory, chat) -> Lived:
    home = tmp_path_factory.mktemp("lived")
    return read(home, replay(home, WINE_WEBHOOK=chat.address), chat.got)


def kinds(record: Record) -> list[str]:
    return [finding.kind for finding in record.findings]


def test_bad_data_is_refused_and_told_and_nothing_is_trained(lived):
    week = lived.week(1)
    assert (week.reading.asked, week.reading.refused, week.reading.wines) == (18, 9, 50)
    assert kinds(week) == ["bad data"]
    assert (week.event, lived.champion_after(1)) == ("", "1")


def test_drift_without_harm_promotes_nothing(lived):
    week = lived.week(2)
    assert kinds(week) == ["drift"]
    assert "total_sulfur_dioxide" in week.reading.drifted
    assert not week.reading.quality.lost
    assert lived.champion_after(2) == "1"


def test_white_wine_is_drift_before_any_of_it_is_labelled(lived):
    week = lived.week(3)
    assert "drift" in kinds(week)
    assert {"type", "residual_sugar"} <= set(week.reading.drifted)
    assert week.event == ""


def test_when_the_labels_are_in_a_new_model_is_trained_and_promoted(lived):
    week = lived.week(4)
    assert week.event
    assert int(lived.champion_after(4)) > 1
    assert lived.week(5).reading.version == lived.champion_after(4), "the service swapped"
    assert lived.summary["promoted"] == [4]
    assert lived.summary["rmse_with_loop"] < lived.summary["rmse_without"]


def test_a_challenger_that_learnt_from_wrong_labels_is_refused(lived):
    week = lived.week(6)
    assert kinds(week)[-1] == "quality"
    assert week.event == "quality"
    assert lived.champion_after(6) == lived.champion_after(4)
    assert 6 in lived.summary["refused"]


def test_the_trigger_started_the_trainings_and_the_versions_lead_to_their_wine(lived):
    with tracking.store(lived.config):
        versions = MlflowClient().search_model_versions("name = 'wine-quality'")
    assert len(versions) == 1 + len(lived.summary["asked"])
    assert all(version.tags["data_sha256"] for version in versions)
    assert {Path(record.data).name for record in lived.records if record.event} == {
        f"week-0{number}" for number in lived.summary["asked"]
    }


def test_people_are_told_what_is_new_and_a_webhook_that_refused_was_tried_again(lived):
    told = [message["name"] for message in lived.told]
    assert told == [record.reading.name for record in lived.records if record.news]
    assert lived.told[0]["text"].startswith("wine-quality, week 01\nbad data: 9 of 18 requests were refused (50%)")


def test_the_screen_tells_the_story(lived):
    for line in (
        r"week 01   bad data: 9 of 18 requests were refused .*",
        r"week 04   a new model is asked for .* it is champion now, as version \d",
        r"week 06   a new model is asked for .* it is not good enough",
    ):
        assert re.search(f"^{line}$", lived.lines, re.MULTILINE)
    assert lived.lines.splitlines()[-2] == f"page      {lived.home / 'monitoring' / 'report.html'}"


def test_the_page_is_one_file_without_a_network(lived):
    page = (lived.home / "monitoring" / "report.html").read_text()
    assert "http" not in page
    assert page.count("<tr") == 1 + 6
    assert f"{lived.summary['rmse_with_loop']:.3f}" in page


def test_each_week_that_drifted_has_its_page_of_evidently(lived):
    pages = {path.stem for path in lived.config.reports.glob("*.html")}
    assert pages == {record.reading.name.replace(" ", "-") for record in lived.records if "drift" in kinds(record)}


def test_nothing_of_the_year_lies_outside_its_own_folder_and_no_process_is_left(lived):
    assert {path.name for path in lived.home.iterdir()} == {"monitoring"}
    assert {path.name for path in (lived.home / "monitoring").iterdir()} == {"year", "report.html"}
    assert processes_at(lived.home) == []


def test_a_year_that_is_over_is_not_lived_again(lived):
    before = (lived.config.local / "year.jsonl").read_bytes()
    done = replay(lived.home)
    assert done.startswith("over      ")
    assert (lived.config.local / "year.jsonl").read_bytes() == before


def test_another_year_does_not_mix_with_the_one_that_was_begun(lived):
    command = [sys.executable, "-m", "monitoring.simulation.servers"]
    own = {**os.environ, **environment(lived.home)}
    done = subprocess.run(command, cwd=ROOT, env=own, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {lived.home / 'monitoring' / 'year'}: another year was begun here")


def test_the_alias_goes_back_by_one_command_and_no_further(lived):
    own = {**os.environ, **environment(lived.home), "WINE_HOME": str(lived.config.home)}
    command = [sys.executable, "-m", "monitoring.rollback"]
    with tracking.store(lived.config):
        before = registry.champion(lived.config)
        try:
            done = subprocess.run(command, cwd=ROOT, env=own, capture_output=True, text=True, timeout=120)
            assert done.stdout == (
                f"rollback  wine-quality: version 1 is champion again, version {before.version} was\n"
            ), done.stderr
            again = subprocess.run(command, cwd=ROOT, env=own, capture_output=True, text=True, timeout=120)
            assert again.returncode == 1
            assert again.stderr.startswith("error: wine-quality has no earlier champion.")
        finally:
            MlflowClient().set_registered_model_alias("wine-quality", registry.CHAMPION, before.version)


@pytest.mark.long
def test_a_replay_that_is_killed_goes_on_where_it_was_and_ends_as_one_that_was_not(lived, tmp_path):
    journal = tmp_path / "monitoring" / "year" / ".local" / "year.jsonl"
    log = tmp_path.with_suffix(".log")
    with running(["-m", "monitoring.simulation.servers", "--short"], log, **environment(tmp_path)) as process:
        wait_until(lambda: journal.is_file() and len(journal.read_text().splitlines()) == 2, "two weeks", 300)
        os.kill(process.pid, signal.SIGKILL)
    wait_until(lambda: processes_at(tmp_path) == [], "the end of all that the replay had started")
    assert len(journal.read_text().splitlines()) < 6
    whole = read(tmp_path, replay(tmp_path), [])
    assert whole.summary == lived.summary
    assert [plain(record) for record in whole.records] == [plain(record) for record in lived.records]


def plain(record: Record) -> tuple:
    """Return what a record says, but for times, folders and what the service had counted before it was killed."""
    return replace(record.reading, asked=None, refused=None), kinds(record), record.known, record.event, record.why
