"""How far am I? Look at what a chapter should have left, and say what is done, what is missing, and what to do next.

It looks through the tools' own clients: MLflow's, Prefect's, the bucket's, the service's. Run it with
`python -m chapters.check 3`, or `make check CH=3`.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec

import httpx
from prefect.client.orchestration import get_client

from chapters import chapter_of
from monitoring.records import load_records
from orchestration.bucket import wine_bucket
from orchestration.startup import connect_quietly, is_up
from wine_quality import predictions, registry, sources, storage, tracking
from wine_quality.command import exit_code
from wine_quality.config import Settings

FIRST_RUN = "first-forest"  # the run that notebook 4 logs by hand
AFTER_SEARCH = "xgboost-by-autolog"  # a run of notebook 5; the pipeline searches as well
LESSON = "wine-quality-lesson"  # the registered model of notebook 6
OF_LATER_CHAPTERS = {"first-forest", "wine-quality"}  # files in models/


@dataclass(frozen=True)
class Item:
    """One thing that a chapter leaves: what it is, whether it is there, and what to do if it isn't."""

    what: str
    done: bool
    next_step: str


def training(config: Settings) -> Iterator[Item]:
    """Chapter 1: wine, and the models of its notebooks."""
    dataset = sources.load_dataset(config)
    yield Item(f"wine: {len(dataset.table):,} rows, {dataset.why}", True, "")
    models = sorted({path.stem for path in config.models.glob("*.skops")} - OF_LATER_CHAPTERS)
    names = ", ".join(models) or "none"
    yield Item(f"models of notebook 2: {names}", bool(models), "run 02-train-baselines in make lab")
    own = config.local / "three-worlds.png"  # the one under images/ comes with the checkout
    yield Item("the figure of notebook 3", own.is_file(), "run 03-find-the-leak in make lab")


def experiment_tracking(config: Settings) -> Iterator[Item]:
    """Chapter 2: runs, the search, and the lesson's model."""
    with tracking.store(config) as store:
        runs = store.client.search_runs([store.experiment_id])
        lesson = store.client.search_registered_models(f"name = '{LESSON}'")
    trials = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    first = any(run.info.run_name == FIRST_RUN for run in runs)  # make run leaves runs as well
    yield Item(f"runs in MLflow: {len(runs) - len(trials)}", first, "run 04-track-runs in make lab")
    searched = any(run.info.run_name == AFTER_SEARCH for run in runs)
    yield Item(f"trials of a search: {len(trials)}", searched, "run 05-tune-with-hyperopt")
    versions = ", ".join(f"{alias} is version {number}" for one in lesson for alias, number in one.aliases.items())
    yield Item(f"the lesson's model: {versions or 'none'}", bool(versions), "run 06-register-the-model")


def orchestration(config: Settings) -> Iterator[Item]:
    """Chapter 3: a champion, its files in the bucket, deployments, and a run that ended well."""
    yield champion(config)
    with wine_bucket(config) as (bucket, _):
        whole = [run_id for run_id, files in storage.runs(bucket).items() if storage.MANIFEST in files]
    yield Item(f"runs in the bucket: {len(whole)}", bool(whole), "make run")
    yield Item("the servers of make up", is_up(config), "run make up in another terminal")
    if not is_up(config):
        return
    with get_client(sync_client=True) as client:
        names = sorted(one.name for one in client.read_deployments())
        by_deployments = [run for run in client.read_flow_runs() if run.deployment_id]
    done = [run for run in by_deployments if run.state and run.state.is_completed()]
    yield Item(f"deployments: {', '.join(names) or 'none'}", "nightly" in names, "make deploy")
    yield Item(f"runs of deployments: {len(done)}", bool(done), "press Quick run on the page of nightly")


def deployment(config: Settings) -> Iterator[Item]:
    """Chapter 4: a service that is ready, predictions that were stored, and files that were scored."""
    yield champion(config)
    try:
        ready = httpx.get(f"http://127.0.0.1:{config.serve_port}/health/ready", timeout=5).json()["status"]
    except httpx.HTTPError:
        ready = "away"
    yield Item(f"the service: {ready}", ready == "green", "run make serve in another terminal")
    stored = predictions.count(config.predictions_uri)
    ask = "ask /predict, as the chapter shows, or make score; the page stores nothing"
    yield Item(f"predictions stored: {stored:,}", stored > 0, ask)
    with wine_bucket(config) as (bucket, _):
        scored = [one["Key"] for one in bucket.list_objects("scored/") if one["Key"].endswith((".csv", ".parquet"))]
    yield Item(f"files scored: {len(scored)}", bool(scored), "put a file under incoming/ in the bucket; make score")


def monitoring(config: Settings) -> Iterator[Item]:
    """Chapter 5: the simulation, and monitoring runs on your own predictions."""
    complete = (config.local / "simulation" / "summary.json").is_file()
    yield Item("the simulation, complete", complete, "make simulate")
    report = config.home / "monitoring" / "report.html"
    yield Item(f"its report: {report}", report.is_file(), "make simulate")
    records = load_records(config)
    last = f", the last one {records[-1].result.name}" if records else ""
    yield Item(f"monitoring runs on your own predictions: {len(records)}{last}", bool(records), "make monitor")


def scaling(config: Settings) -> Iterator[Item]:
    """Chapter 6: Dask, a dataset of many rows and a version trained on it, and a search with a window."""
    installed = find_spec("distributed") is not None
    yield Item(f"Dask: {'installed' if installed else 'not installed'}", installed, "make setup-scaling")
    with tracking.store(config) as store:
        runs = store.client.search_runs([store.experiment_id])
    at_scale = [run for run in runs if "way" in run.data.tags]
    train = "make rows, then make train-at-scale"
    yield Item(f"trainings on many rows: {len(at_scale)}", bool(at_scale), train)
    windows = {int(run.data.params.get("window", 1)) for run in runs}
    widest = max(windows, default=1)
    yield Item(f"trials of a search at the same time: {widest}", widest > 1, "WINE_WORKERS=2 WINE_WINDOW=4 make run")
    passwords = config.local / "cluster" / "client.env"
    yield Item("a cluster that was started", passwords.is_file(), "run make cluster in another terminal")


def champion(config: Settings) -> Item:
    """Return whether there is a champion."""
    with tracking.store(config) as store:
        version = registry.champion(store)
    return Item(f"champion: {f'version {version.version}' if version else 'none'}", version is not None, "make run")


CHECKS = {1: training, 2: experiment_tracking, 3: orchestration, 4: deployment, 5: monitoring, 6: scaling}


def main() -> None:
    """Print a line for each thing of a chapter, and what to do next; something missing is an answer, not a failure."""
    next_step = ""
    for item in CHECKS[chapter_of(sys.argv[1:], "check")](connect_quietly()):
        print(f"{'done' if item.done else 'missing':<9} {item.what}")
        next_step = next_step or ("" if item.done else item.next_step)
    print(f"next      {next_step or 'all is there; go on with the next chapter'}")


if __name__ == "__main__":
    sys.exit(exit_code(main))
