"""Run a simulation week by week: the service scores the wines, labels come in later, and each week is monitored.

`monitoring.simulation` starts the servers that this needs, and then this, in a process of its own. Its progress is
stored week by week, so that a simulation that was stopped goes on with the week in which it was.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from datetime import UTC, datetime
from io import StringIO
from typing import Any

import httpx
import pandas as pd
from prefect import flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas import FlowRun
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterName
from tqdm import tqdm

from monitoring.monitor import monitor_wine_quality
from monitoring.records import Record
from monitoring.simulation.report import write_report
from monitoring.simulation.scenario import SCENARIOS, Scenario, Week, draw_weeks, labels_due, taster_labels
from orchestration.policies import one_heartbeat
from orchestration.startup import connect_quietly
from orchestration.train import train_wine_quality
from wine_quality import labels, predictions, registry, shadow, sources, tracking
from wine_quality.command import exit_code
from wine_quality.config import Settings, settings
from wine_quality.errors import DeploymentError
from wine_quality.files import atomic_write
from wine_quality.processes import module, wait_until
from wine_quality.schema import TARGET

TIMEOUT = 300  # seconds for a training run, or whatever else is waited for
ROWS_PER_REQUEST = 6
Line = dict[str, Any]


@contextmanager
def creating_deployments() -> Iterator[None]:
    """Create the deployments while the block runs, as `make deploy` does."""
    deploy = subprocess.Popen(module("orchestration.deploy"), stdout=subprocess.DEVNULL)
    try:
        yield
    finally:
        code = deploy.wait()
    if code:
        raise DeploymentError("the deployments of the simulation failed; the line above says why.")


class Simulation:
    """The servers of a simulation, and what it does with them."""

    def __init__(self, config: Settings, prefect: SyncPrefectClient, service: httpx.Client) -> None:
        self.config, self.prefect, self.service = config, prefect, service

    def train_first_champion(self, table: pd.DataFrame) -> None:
        """Train the first champion, if there is none yet."""
        if self.champion() is None:
            folder = self.config.local / "labelled" / "week-00"
            sources.write_table(table, folder)
            with redirect_stdout(StringIO()):  # its report is with the run
                train_wine_quality(data=str(folder), max_evals=1)
        self.wait_until_served()

    def champion(self) -> str | None:
        """Return the number of the version that has the alias."""
        with tracking.store(self.config) as store:
            version = registry.champion(store)
        return version and str(version.version)

    def wait_until_retrained(self, folder: str, since: datetime) -> None:
        """Return once a run that was created since then has trained on a folder."""
        retrain = DeploymentFilter(name=DeploymentFilterName(any_=["retrain"]))

        def ended_run() -> FlowRun | None:
            for run in self.prefect.read_flow_runs(deployment_filter=retrain):
                ours = run.parameters["data"] == folder and run.created and run.created >= since
                if ours and run.state and run.state.is_final():
                    return run
            return None

        run = wait_until(ended_run, f"the training on {folder}", TIMEOUT)
        if not run.state.is_completed():
            raise DeploymentError(f"training run {run.name} is {run.state.name.lower()}. Look into its log in Prefect.")

    def wait_until_served(self) -> None:
        """Return once the service responds with the champion."""
        champion = self.champion()

        def is_served() -> bool:
            with suppress(httpx.TransportError):  # it does not answer yet
                return self.service.get("/model").json().get("version") == champion
            return False

        wait_until(is_served, f"version {champion} in the service", TIMEOUT)

    def score(self, week: Week) -> list[str]:
        """Send a week's wines to the service, and return the ids of the predictions once they are in the database."""
        since, url = datetime.now(UTC), self.config.predictions_uri
        for rows in requests(week.invalid):
            self.service.post("/predict", json=rows)
        requested = requests(week.table.drop(columns=TARGET))
        responses = [self.service.post("/predict", json=rows).raise_for_status() for rows in requested]
        ids = [one["id"] for response in responses for one in response.json()["predictions"]]
        wait_until(lambda: predictions.count(url, since) >= len(ids), "the predictions in the database", TIMEOUT)
        wait_until(self.is_shadowed, "the scores of the challenger", TIMEOUT)
        return ids

    def is_shadowed(self) -> bool:
        """Say whether the challenger, if there is one, has scored all that the champion did since it is there."""
        with tracking.store(self.config) as store:
            champion, challenger = registry.champion(store), registry.challenger(store)
        if champion is None or challenger is None:
            return True
        since = registry.registered_at(challenger)
        versions = str(champion.version), str(challenger.version)
        return shadow.unscored(self.config.predictions_uri, *versions, since, limit=1).empty


def requests(table: pd.DataFrame) -> list[list[dict[str, Any]]]:
    """Return rows as the service takes them, six to a request."""
    rows = table.to_dict("records")
    return [rows[first : first + ROWS_PER_REQUEST] for first in range(0, len(rows), ROWS_PER_REQUEST)]


def simulate_week(
    simulation: Simulation, scenario: Scenario, weeks: list[Week], week: Week, progress: list[Line]
) -> tuple[Line, Record]:
    """Simulate a week; return what is to be stored of it, and the record of its monitoring run."""
    for number, correct in labels_due(scenario, week.number).items():
        values = taster_labels(weeks[number - 1].table, correct)
        labels.add(simulation.config.predictions_uri, dict(zip(progress[number - 1]["ids"], values, strict=True)))
    since = datetime.now(UTC)
    ids = simulation.score(week)
    record = monitor_wine_quality(since, datetime.now(UTC), week.name)
    if record.trigger:
        simulation.wait_until_retrained(record.training_data, since)
    simulation.wait_until_served()
    return {"week": week.number, "ids": ids, "champion": simulation.champion()}, record


def print_week(week: Week, record: Record, champion: str) -> None:
    """Print what is special about a week above the progress bar."""
    lines = [week.incident] if week.incident else []
    lines += map(str, record.alerts if record.notify else [])
    if record.trigger:
        promoted = champion != record.result.version
        lines.append(f"{record.outcome}: {f'promoted as version {champion}' if promoted else 'rejected by the gate'}")
    if record.shadow:
        lines.append(f"shadow: {record.shadow}{': promoted' if record.earned else ''}")
    for line in lines:
        tqdm.write(f"{week.name}   {line}", file=sys.stdout)


@flow(name="simulation", flow_run_name="{name}")
def simulate(name: str) -> None:
    """Simulate the weeks of a scenario that are left, and write the report."""
    config, scenario = settings(), SCENARIOS[name]
    table = sources.load_dataset(settings(data=str(config.home / "wine"))).table
    training, weeks = draw_weeks(scenario, table, config.seed)
    path = config.local / "progress.json"
    progress = json.loads(path.read_text()) if path.exists() else []
    with (
        get_client(sync_client=True) as prefect,
        httpx.Client(base_url=f"http://127.0.0.1:{config.serve_port}", timeout=30) as service,
        one_heartbeat(),
    ):
        simulation = Simulation(config, prefect, service)
        with creating_deployments():
            simulation.train_first_champion(training)
        for deployment in prefect.read_deployments():  # nothing starts by the clock, because a year passes in minutes
            prefect.pause_deployment(deployment.id)
        for week in tqdm(weeks[len(progress) :], desc=name, unit="week", initial=len(progress), total=len(weeks)):
            line, record = simulate_week(simulation, scenario, weeks, week, progress)
            print_week(week, record, line["champion"])
            progress.append(line)
            with atomic_write(path) as part:
                part.write_text(json.dumps(progress))
        write_report(config, scenario, weeks, progress)


def main() -> None:
    """Run a simulation on a quiet screen."""
    connect_quietly()
    simulate(sys.argv[1])


if __name__ == "__main__":
    sys.exit(exit_code(main))
