"""Six simulated weeks on real servers: the effect of each incident, and a simulation that is killed and resumes."""

import json
import os
import re
import signal
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import CLEAN
from receiver import receiver
from servers import command, processes_at, running, wait_until

from monitoring.records import Record, load_records
from wine_quality import registry, tracking
from wine_quality.config import Settings, settings

pytestmark = pytest.mark.slow

SEED = "7"  # with this seed, six weeks of the sample have every event of a year


class Simulated:
    """A completed simulation: what it printed, wrote and sent to the webhook, and its settings."""

    def __init__(self, home: Path, lines: str, notifications: list[dict]) -> None:
        self.home, self.lines, self.notifications = home, lines, notifications
        self.records = load_records(self.config)
        self.summary = json.loads((self.config.home / "summary.json").read_text())
        progress = json.loads((self.config.local / "progress.json").read_text())
        self.champions = [week["champion"] for week in progress]

    @property
    def config(self) -> Settings:
        return settings(home=self.home / ".local" / "simulation")

    def week(self, number: int) -> Record:
        return self.records[number - 1]

    def champion_after(self, number: int) -> str:
        return self.champions[number - 1]


def environment(home: Path) -> dict[str, str]:
    return {**CLEAN, "WINE_HOME": str(home), "WINE_DATA": "sample", "WINE_SEED": SEED}


def simulate(home: Path, **more: str) -> str:
    done = command("monitoring.simulation", "--short", seconds=1800, **environment(home), **more)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def simulated(tmp_path_factory) -> Simulated:
    home = tmp_path_factory.mktemp("simulated")
    with receiver() as chat:
        chat.answers = [503, 503]
        return Simulated(home, simulate(home, WINE_WEBHOOK=chat.address), chat.got)


def kinds(record: Record) -> list[str]:
    return [alert.kind for alert in record.alerts]


def test_bad_data_is_rejected_and_alerted_and_nothing_is_trained(simulated):
    week = simulated.week(1)
    assert (week.result.requests, week.result.rejected, week.result.predictions) == (18, 9, 50)
    assert kinds(week) == ["bad data"]
    assert (week.trigger, simulated.champion_after(1)) == ("", "1")


def test_drift_without_harm_promotes_nothing_and_white_wine_drifts_before_it_has_labels(simulated):
    high_sulfur, white = simulated.week(2), simulated.week(3)
    assert kinds(high_sulfur) == ["drift"]
    assert "total_sulfur_dioxide (red)" in high_sulfur.result.drifted
    assert not high_sulfur.result.quality.degraded
    assert simulated.champion_after(2) == "1"
    assert "drift" in kinds(white)
    assert white.result.type_drift
    assert "type" in white.result.drifted
    assert white.trigger == ""


def test_once_labels_arrive_a_model_is_trained_and_promoted(simulated):
    week = simulated.week(4)
    assert week.trigger
    assert int(simulated.champion_after(4)) > 1
    assert simulated.week(5).result.version == simulated.champion_after(4), "the service loaded it"
    assert simulated.summary["promoted"] == [4]
    assert simulated.summary["rmse_with_loop"] < simulated.summary["rmse_without"]


def test_a_challenger_trained_on_wrong_labels_is_rejected(simulated):
    week = simulated.week(6)
    assert {"quality", "coverage"} <= set(kinds(week))
    assert week.trigger == "quality"
    assert simulated.champion_after(6) == simulated.champion_after(4)
    assert 6 in simulated.summary["rejected"]


def test_the_trigger_started_each_retraining_and_each_version_has_its_data(simulated):
    with tracking.store(simulated.config) as store:
        versions = store.client.search_model_versions("name = 'wine-quality'")
    assert len(versions) == 1 + len(simulated.summary["retrained"])
    assert all(version.tags["data_sha256"] for version in versions)
    assert {Path(record.training_data).name for record in simulated.records if record.trigger} == {
        f"week-0{number}" for number in simulated.summary["retrained"]
    }


def test_people_are_notified_of_new_alerts_and_a_failed_webhook_is_retried(simulated):
    names = [sent["name"] for sent in simulated.notifications]
    assert names == [record.result.name for record in simulated.records if record.notify]
    first = simulated.notifications[0]["text"]
    assert first.startswith("wine-quality, week 01\nbad data: 9 of 18 requests were rejected (50%)")


def test_the_screen_shows_the_outcomes(simulated):
    for line in (
        r"week 01   bad data: 9 of 18 requests were rejected .*",
        r"week 04   retraining requested .*: promoted as version \d",
        r"week 06   retraining requested .*: rejected by the gate",
    ):
        assert re.search(f"^{line}$", simulated.lines, re.MULTILINE)
    assert simulated.lines.splitlines()[-2] == f"report    {simulated.home / 'monitoring' / 'report.html'}"


def test_the_report_is_self_contained_and_each_drift_alert_has_an_evidently_page(simulated):
    report = (simulated.home / "monitoring" / "report.html").read_text()
    assert "http" not in report
    assert report.count("<tr") == 1 + 6
    assert f"{simulated.summary['rmse_with_loop']:.3f}" in report
    pages = {path.stem for path in simulated.config.reports.glob("*.html")}
    assert pages == {record.result.name.replace(" ", "-") for record in simulated.records if "drift" in kinds(record)}


def test_nothing_is_written_outside_its_folder_and_no_process_is_left(simulated):
    assert {path.name for path in simulated.home.iterdir()} == {".local", "monitoring"}
    assert [path.name for path in (simulated.home / ".local").iterdir()] == ["simulation"]
    assert [path.name for path in (simulated.home / "monitoring").iterdir()] == ["report.html"]
    assert processes_at(simulated.home) == []


def test_a_complete_simulation_is_not_repeated_or_mixed_with_another(simulated):
    progress = simulated.config.local / "progress.json"
    before = progress.read_bytes()
    assert simulate(simulated.home).startswith("done      ")
    assert progress.read_bytes() == before
    other = command("monitoring.simulation", **environment(simulated.home))
    assert other.returncode == 1
    assert other.stderr.startswith(
        f"error: {simulated.config.home}: holds a simulation with different data, length or seed"
    )


def test_a_rollback_moves_the_alias_back_once_and_no_further(simulated):
    own = {**environment(simulated.home), "WINE_HOME": str(simulated.config.home)}
    with tracking.store(simulated.config) as store:
        before = registry.champion(store)
        try:
            done = command("monitoring.rollback", **own)
            line = f"rollback  wine-quality: version 1 is champion again, in place of version {before.version}\n"
            assert done.stdout == line, done.stderr
            again = command("monitoring.rollback", **own)
            assert again.returncode == 1
            assert again.stderr.startswith("error: wine-quality has no earlier champion.")
        finally:
            store.client.set_registered_model_alias("wine-quality", registry.CHAMPION, before.version)


@pytest.mark.long
def test_a_killed_simulation_resumes_and_ends_like_one_that_ran_through(simulated, tmp_path):
    progress = tmp_path / ".local" / "simulation" / ".local" / "progress.json"
    log = tmp_path.with_suffix(".log")
    with running(["-m", "monitoring.simulation", "--short"], log, **environment(tmp_path)) as process:
        wait_until(lambda: progress.is_file() and len(json.loads(progress.read_text())) == 2, "two weeks", 300)
        os.kill(process.pid, signal.SIGKILL)
    wait_until(lambda: processes_at(tmp_path) == [], "all processes of the simulation to end")
    assert len(json.loads(progress.read_text())) < 6
    whole = Simulated(tmp_path, simulate(tmp_path), [])
    assert whole.summary == simulated.summary
    assert [plain(record) for record in whole.records] == [plain(record) for record in simulated.records]


def plain(record: Record) -> tuple:
    """Return a record without times, folders and request counts, which differ if the service was killed."""
    return replace(record.result, requests=None, rejected=None), kinds(record), record.rows, record.outcome
