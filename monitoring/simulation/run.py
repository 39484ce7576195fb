"""Run a simulation week by week: the service scores the rows, labels arrive later, and each week ends with monitoring.

`monitoring.simulation` starts the servers, and then this module in its own process. Progress is saved after each week,
so a simulation that was stopped resumes with the week in which it was.
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

TIMEOUT = 300  # seconds to wait for a training run, or for anything else
ROWS_PER_REQUEST = 6
StoredWeek = dict[str, Any]  # its number, the ids of its predictions, and the champion at its end


@contextmanager
def creating_deployments() -> Iterator[None]:
    """Create the deployments, as `make deploy` does, while the block runs."""
    deploy = subprocess.Popen(module("orchestration.deploy"), stdout=subprocess.DEVNULL)
    try:
        yield
    finally:
        code = deploy.wait()
    if code:
        raise DeploymentError("the simulation's deployments could not be created. Fix what the line above says.")


class Simulation:
    """A simulation's clients: of Prefect's server and of the service."""

    def __init__(self, config: Settings, prefect: SyncPrefectClient, service: httpx.Client) -> None:
        self.config, self.prefect, self.service = config, prefect, service

    def train_first_champion(self, table: pd.DataFrame) -> None:
        """Train the first champion, if there is none yet."""
        if self.champion() is None:
            folder = self.config.local / "labelled" / "week-00"
            sources.write_table(table, folder)
            with redirect_stdout(StringIO()):  # the run has the report too
                train_wine_quality(data=str(folder), max_evals=1)
        self.wait_until_served()

    def champion(self) -> str | None:
        """Return the champion's version number, None if there is no champion."""
        with tracking.store(self.config) as store:
            version = registry.champion(store)
        return version and str(version.version)

    def wait_until_retrained(self, folder: str, since: datetime) -> None:
        """Wait until a training run on a folder, created since a given time, has ended."""
        retrain = DeploymentFilter(name=DeploymentFilterName(any_=["retrain"]))

        def ended_run() -> FlowRun | None:
            for run in self.prefect.read_flow_runs(deployment_filter=retrain):
                ours = run.parameters["data"] == folder and run.created and run.created >= since
                if ours and run.state and run.state.is_final():
                    return run
            return None

        run = wait_until(ended_run, f"the training on {folder}", TIMEOUT)
        if not run.state.is_completed():
            raise DeploymentError(f"training run {run.name} is {run.state.name.lower()}. See its log in Prefect.")

    def wait_until_served(self) -> None:
        """Wait until the service has loaded the champion."""
        champion = self.champion()

        def is_served() -> bool:
            with suppress(httpx.TransportError):  # it isn't up yet
                return self.service.get("/model").json().get("version") == champion
            return False

        wait_until(is_served, f"version {champion} in the service", TIMEOUT)

    def score(self, week: Week) -> list[str]:
        """Send a week's rows to the service, and return the predictions' ids once they are in the database."""
        since, url = datetime.now(UTC), self.config.predictions_uri
        for rows in requests(week.invalid):
            self.service.post("/predict", json=rows)
        requested = requests(week.table.drop(columns=TARGET))
        responses = [self.service.post("/predict", json=rows).raise_for_status() for rows in requested]
        ids = [one["id"] for response in responses for one in response.json()["predictions"]]
        wait_until(lambda: predictions.count(url, since) >= len(ids), "the predictions in the database", TIMEOUT)
        wait_until(self.is_shadowed, "the challenger's scores", TIMEOUT)
        return ids

    def is_shadowed(self) -> bool:
        """Return whether the challenger, if any, has scored every row the champion scored since its registration."""
        with tracking.store(self.config) as store:
            champion, challenger = registry.champion(store), registry.challenger(store)
        if champion is None or challenger is None:
            return True
        since = registry.registered_at(challenger)
        versions = str(champion.version), str(challenger.version)
        return shadow.unscored(self.config.predictions_uri, *versions, since, limit=1).empty


def requests(table: pd.DataFrame) -> list[list[dict[str, Any]]]:
    """Return a table as the JSON of requests, six rows each."""
    rows = table.to_dict("records")
    return [rows[first : first + ROWS_PER_REQUEST] for first in range(0, len(rows), ROWS_PER_REQUEST)]


def simulate_week(
    simulation: Simulation, scenario: Scenario, weeks: list[Week], week: Week, progress: list[StoredWeek]
) -> tuple[StoredWeek, Record]:
    """Simulate a week; return what to store of it, and the record of its monitoring run."""
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
    """Print a week's events above the progress bar."""
    lines = [week.incident] if week.incident else []
    lines += map(str, record.alerts if record.notify else [])
    if record.trigger:
        promoted = champion != record.result.version
        lines.append(f"{record.outcome}: {f'promoted as version {champion}' if promoted else 'rejected by the gate'}")
    if record.shadow:
        lines.append(record.shadow_outcome)
    for line in lines:
        tqdm.write(f"{week.name}   {line}", file=sys.stdout)


@flow(name="simulation", flow_run_name="{name}")
def simulate(name: str) -> None:
    """Simulate the remaining weeks of a scenario, and write the report."""
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
        for deployment in prefect.read_deployments():  # schedules make no sense when a year passes in minutes
            prefect.pause_deployment(deployment.id)
        for week in tqdm(weeks[len(progress) :], desc=name, unit="week", initial=len(progress), total=len(weeks)):
            stored, record = simulate_week(simulation, scenario, weeks, week, progress)
            print_week(week, record, stored["champion"])
            progress.append(stored)
            with atomic_write(path) as part:
                part.write_text(json.dumps(progress))
        write_report(config, scenario, weeks, progress)


def main() -> None:
    """Run a simulation without Prefect's log on the screen."""
    connect_quietly()
    simulate(sys.argv[1])


if __name__ == "__main__":
    sys.exit(exit_code(main))
