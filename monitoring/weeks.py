"""Live through the year: wine comes, is scored by the service, is tasted later, and each week is looked at.

`monitoring.replay` starts the servers that this needs, and then this, in a process of its own. What is done is written
down week by week, so that a year that was stopped goes on with the week in which it was.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path
from typing import Any

import httpx
import pandas as pd

from orchestration import prepare_home  # isort: skip  it names Prefect's home, which Prefect reads when it is imported

from prefect import flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas import FlowRun
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterName
from tqdm import tqdm

from monitoring import page, year
from monitoring.alerts import what_follows
from monitoring.records import Record
from monitoring.watch import watch_wine
from monitoring.year import Plan, Week
from orchestration.policies import one_heartbeat
from orchestration.show import quiet
from orchestration.train import train_wine_quality
from wine_quality import data, labels, predictions, registry, tracking
from wine_quality.config import Settings, settings
from wine_quality.errors import DeploymentError, exit_code
from wine_quality.files import whole_file
from wine_quality.schema import FEATURES

PLANS = {"year": year.YEAR, "six-weeks": year.SIX_WEEKS}
PATIENCE = 300  # seconds for a training run, or whatever else is waited for
CASE = 6  # bottles
RETRAIN = "retrain"
Line = dict[str, Any]


def wait_until(true: Callable[[], Any], what: str) -> Any:
    """Return what `true` gives once that is something."""
    deadline = time.monotonic() + PATIENCE
    while not (found := true()):
        if time.monotonic() > deadline:
            raise DeploymentError(f"{what}: not in {PATIENCE} s. Look into the logs under .local, and run it again.")
        time.sleep(0.1)
    return found


@contextmanager
def making_deployments() -> Iterator[None]:
    """Make the deployments while the block runs, as `make deploy` does."""
    deploy = subprocess.Popen([sys.executable, "-m", "orchestration.deploy"], stdout=subprocess.DEVNULL)
    try:
        yield
    finally:
        code = deploy.wait()
    if code:
        raise DeploymentError("the deployments of the year could not be made; the line above says why.")


class Life:
    """The servers of the replay, and what is done with them."""

    def __init__(self, config: Settings, prefect: SyncPrefectClient, service: httpx.Client) -> None:
        self.config, self.prefect, self.service = config, prefect, service

    def pause_schedules(self) -> None:
        """Let nothing start by the clock: a year goes by in minutes."""
        for deployment in self.prefect.read_deployments():
            self.prefect.pause_deployment(deployment.id)

    def first_champion(self, known: pd.DataFrame) -> None:
        """Train the first champion, where there is none yet."""
        if self.champion() is None:
            folder = self.config.local / "labelled" / "week-00"
            data.write_table(known, folder)
            with redirect_stdout(StringIO()):  # its report is with the run
                train_wine_quality(data=str(folder), max_evals=1)
        self.wait_for_swap()

    def champion(self) -> str | None:
        """Return the number of the version that has the alias."""
        with tracking.store(self.config):
            version = registry.champion(self.config)
        return version and str(version.version)

    def wait_for_training(self, folder: str, since: datetime) -> None:
        """Return once a run that was made since then has trained on a folder."""
        run = wait_until(lambda: self.training_on(folder, since), f"the training on {folder}")
        if not run.state.is_completed():
            raise DeploymentError(f"training run {run.name} is {run.state.name.lower()}. Look into its log in Prefect.")

    def training_on(self, folder: str, since: datetime) -> FlowRun | None:
        """Return the run that has trained on a folder, None where it has not ended."""
        own = DeploymentFilter(name=DeploymentFilterName(any_=[RETRAIN]))
        runs = [run for run in self.prefect.read_flow_runs(deployment_filter=own) if run.created >= since]
        return next((run for run in runs if run.parameters["data"] == folder and run.state.is_final()), None)

    def wait_for_swap(self) -> None:
        """Return once the service answers with the champion."""
        champion = self.champion()
        wait_until(lambda: self.serving() == champion, "the swap of the service")

    def serving(self) -> str | None:
        """Return the number of the version that serves, None where the service is not there yet."""
        with suppress(httpx.TransportError):
            return self.service.get("/model").json().get("version")
        return None

    def score(self, week: Week) -> list[str]:
        """Send a week's wines to the service, a case a request, and return the ids of the predictions."""
        for case in cases(week.garbled):
            self.service.post("/predict", json=case)
        answers = [self.service.post("/predict", json=case).raise_for_status() for case in cases(week.wines[FEATURES])]
        return [one["id"] for answer in answers for one in answer.json()["predictions"]]

    def wait_for_store(self, ids: list[str], since: datetime) -> None:
        """Return once the predictions are in the database."""
        url = self.config.predictions_uri
        wait_until(lambda: set(ids) <= set(predictions.read(url, since)["id"]), "the predictions in the database")


def cases(wines: pd.DataFrame) -> list[list[dict[str, Any]]]:
    """Return wines as the service takes them, six to a case."""
    each = wines.to_dict("records")
    return [each[first : first + CASE] for first in range(0, len(each), CASE)]


def live_week(life: Life, plan: Plan, weeks: list[Week], week: Week, lines: list[Line]) -> tuple[Line, Record]:
    """Live through a week, and return what is to be noted of it, and its record."""
    for told, right in year.told_in(plan, week.number).items():
        truth = year.qualities(weeks[told - 1].wines, right)
        labels.add(life.config.predictions_uri, dict(zip(lines[told - 1]["ids"], truth, strict=True)))
    since = datetime.now(UTC)
    ids = life.score(week)
    life.wait_for_store(ids, since)
    record = watch_wine(since, datetime.now(UTC), week.name)
    if record.event:
        life.wait_for_training(record.data, since)
        life.wait_for_swap()
    return {"week": week.number, "ids": ids, "champion": life.champion()}, record


def read_lines(path: Path) -> list[Line]:
    """Return what was noted of each week that is done."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def write_lines(path: Path, lines: list[Line]) -> None:
    """Write what was noted of each week, all of it or nothing, so that a replay that is killed goes on."""
    with whole_file(path) as part:
        part.write_text("".join(f"{json.dumps(line)}\n" for line in lines))


def say(week: Week, record: Record, champion: str) -> None:
    """Write what is special about a week above the progress bar."""
    found = [str(finding) for finding in record.findings] if record.news else []
    for line in ([week.story] if week.story else []) + found:
        tqdm.write(f"{week.name}   {line}", file=sys.stdout)
    if record.event:
        fate = "is not good enough" if champion == record.reading.version else f"is champion now, as version {champion}"
        tqdm.write(f"{week.name}   {what_follows(record)}; it {fate}", file=sys.stdout)


@flow(name="replay-year", flow_run_name="{name}")
def replay_year(name: str) -> None:
    """Live through all weeks of a plan that are not done yet, each with a look at the model at its end."""
    config, plan = settings(), PLANS[name]
    known, weeks = year.plan_year(plan, data.load_wine(settings(data=str(config.home / "wine"))).table, config.seed)
    address = f"http://127.0.0.1:{config.serve_port}"
    path = config.local / "year.jsonl"
    lines = read_lines(path)
    with (
        get_client(sync_client=True) as prefect,
        httpx.Client(base_url=address, timeout=30) as service,
        one_heartbeat(),
    ):
        life = Life(config, prefect, service)
        with making_deployments():
            life.first_champion(known)
        life.pause_schedules()
        left = weeks[len(lines) :]
        for week in tqdm(left, desc=name, unit="week", initial=len(lines), total=len(weeks)):
            line, record = live_week(life, plan, weeks, week, lines)
            say(week, record, line["champion"])
            lines.append(line)
            write_lines(path, lines)
        page.write(config, plan, weeks, lines)


def main() -> None:
    """Live through the year on a quiet screen."""
    prepare_home()
    quiet()
    replay_year(sys.argv[1])


if __name__ == "__main__":
    sys.exit(exit_code(main))
