"""Check your progress: which results of a chapter are there, which are missing, and what to do next.

The results are read through the tools' own clients: MLflow's, Prefect's, the bucket's, the service's. Run it with
`python -m chapters.check 3`, or `make check CH=3`.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from io import BytesIO

import httpx
import pandas as pd
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import FlowRun
from skops.io.exceptions import UntrustedTypesFoundException

from chapters import chapter_of
from monitoring.records import load_records
from orchestration.bucket import wine_bucket
from orchestration.startup import connect_quietly, is_up
from wine_quality import predictions, registry, sources, storage, tracking
from wine_quality.command import exit_code
from wine_quality.config import Settings
from wine_quality.external_memory import EXTERNAL_MEMORY, MODE
from wine_quality.metrics import scores
from wine_quality.models import build, cross_predict
from wine_quality.schema import FEATURES, TARGET
from wine_quality.splits import distinct_rows, folds
from wine_quality.storage import Bucket
from wine_quality.tracking import Store

FIRST_RUN = "first-forest"  # the run that notebook 4 logs by hand
AFTER_SEARCH = "xgboost-by-autolog"  # a run of notebook 5; the pipeline searches as well
LESSON = "wine-quality-lesson"  # the registered model of notebook 6
OWN_MODEL, OWN_GAIN = "my-model", 0.01  # the exercises in which something is made: of chapter 1,
OWN_NAME = "wine-quality-mine"  # 2,
OWN_DEPLOYMENT = "my-deployment"  # 3,
OWN_FILE, OWN_ROWS = "scored/my-samples.csv", 10  # 4,
OWN_THRESHOLD = "drift-threshold"  # and 5: a run in the experiment `drift`
OWN_FILE_EXERCISE = 'finish "Score a file of your own" in deployment/README.md'
CALM_WEEKS, FALSE_ALARMS = 200, 0.05
OTHER_MODELS = {"first-forest", "wine-quality", OWN_MODEL}  # files in models/ that notebook 2 doesn't save


@dataclass(frozen=True)
class Item:
    """One result of a chapter: what it is, whether it is there, and what to do if it isn't."""

    what: str
    done: bool
    next_step: str


def training(config: Settings) -> Iterator[Item]:
    """Chapter 1: the dataset, and the models of its notebooks."""
    dataset = sources.load_dataset(config)
    yield Item(f"dataset: {len(dataset.table):,} rows, {dataset.why}", True, "")
    models = sorted({path.stem for path in config.models.glob("*.skops")} - OTHER_MODELS)
    names = ", ".join(models) or "none"
    yield Item(f"models of notebook 2: {names}", bool(models), "run 02-train-baselines in make lab")
    own = config.local / "three-worlds.png"  # the one under images/ comes with the checkout
    yield Item("the figure of notebook 3", own.is_file(), "run 03-find-the-leak in make lab")
    yield own_model(config, distinct_rows(dataset.collection))


def own_model(config: Settings, rows: pd.DataFrame) -> Item:
    """Compare the learner's model with the linear baseline, both by cross-validation on distinct rows."""
    path, exercise = config.models / f"{OWN_MODEL}.skops", 'finish "Build a model of your own" in notebook 3'
    if not path.is_file():
        return Item("a model of your own: none", False, exercise)
    try:
        pipeline = tracking.load_model(path)
    except UntrustedTypesFoundException:
        return Item("a model of your own: its type isn't trusted", False, "choose another regressor in notebook 3")
    models, parts = (pipeline, build("linear", config.seed)), folds(rows, config.seed)
    own, linear = (scores(rows[TARGET].to_numpy(), cross_predict(model, rows, parts))["rmse"] for model in models)
    what = f"a model of your own: RMSE {own:.3f}, the linear baseline {linear:.3f}"
    return Item(what, linear - own >= OWN_GAIN, exercise)


def experiment_tracking(config: Settings) -> Iterator[Item]:
    """Chapter 2: runs, the search, and the lesson's model."""
    with tracking.store(config) as store:
        runs = store.client.search_runs([store.experiment_id])
        lesson = store.client.search_registered_models(f"name = '{LESSON}'")
        own = own_version(store)
    trials = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    first = any(run.info.run_name == FIRST_RUN for run in runs)  # make run leaves runs as well
    yield Item(f"runs in MLflow: {len(runs) - len(trials)}", first, "run 04-track-runs in make lab")
    searched = any(run.info.run_name == AFTER_SEARCH for run in runs)
    yield Item(f"trials of a search: {len(trials)}", searched, "run 05-tune-with-hyperopt")
    versions = ", ".join(f"{alias} is version {number}" for one in lesson for alias, number in one.aliases.items())
    yield Item(f"the lesson's model: {versions or 'none'}", bool(versions), "run 06-register-the-model")
    yield own


def own_version(store: Store) -> Item:
    """Look for the learner's champion, from a run that finished."""
    found = store.client.search_registered_models(f"name = '{OWN_NAME}'")
    numbers = [one.aliases["champion"] for one in found if "champion" in one.aliases]
    run_ids = [store.client.get_model_version(OWN_NAME, str(number)).run_id for number in numbers]
    done = any(run_id and store.client.get_run(run_id).info.status == "FINISHED" for run_id in run_ids)
    which = f"version {numbers[0]}" if numbers else "none"
    return Item(f"champion of {OWN_NAME}: {which}", done, "finish exercise 3 of notebook 6")


def orchestration(config: Settings) -> Iterator[Item]:
    """Chapter 3: a champion, its files in the bucket, deployments, and a completed run."""
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
        own = own_deployment(client, by_deployments)
    done = [run for run in by_deployments if run.state and run.state.is_completed()]
    yield Item(f"deployments: {', '.join(names) or 'none'}", "nightly" in names, "make deploy")
    yield Item(f"runs of deployments: {len(done)}", bool(done), "press Quick run on the page of nightly")
    yield own


def own_deployment(client: SyncPrefectClient, runs: list[FlowRun]) -> Item:
    """Look for a completed run of the learner's deployment, with at least one task."""
    ids = {one.id for one in client.read_deployments() if one.name == OWN_DEPLOYMENT}
    done = [run.id for run in runs if run.deployment_id in ids and run.state and run.state.is_completed()]
    tasks = client.read_task_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=done))) if done else []
    run = f"press Quick run on the page of {OWN_DEPLOYMENT}"
    next_step = run if ids else "finish the exercise at the end of notebook 7"
    return Item(f"completed runs of {OWN_DEPLOYMENT}: {len(done)}, with {len(tasks)} task(s)", bool(tasks), next_step)


def deployment(config: Settings) -> Iterator[Item]:
    """Chapter 4: a service that is ready, predictions that were stored, and files that were scored."""
    yield champion(config)
    try:
        ready = httpx.get(f"http://127.0.0.1:{config.serve_port}/health/ready", timeout=5).json()["status"]
    except (httpx.HTTPError, ValueError, KeyError, TypeError):  # it isn't running, or another program is
        ready = "not running"
    yield Item(f"the service: {ready}", ready == "green", "run make serve in another terminal")
    stored = predictions.count(config.predictions_uri)
    request = "send /predict a request, as the chapter shows, or run make score; the page stores nothing"
    yield Item(f"predictions stored: {stored:,}", stored > 0, request)
    with wine_bucket(config) as (bucket, _):
        scored = [one["Key"] for one in bucket.list_objects("scored/") if one["Key"].endswith((".csv", ".parquet"))]
        yield Item(f"files scored: {len(scored)}", bool(scored), "put a file under incoming/, then run make score")
        yield own_file(config, bucket) if OWN_FILE in scored else Item(f"{OWN_FILE}: none", False, OWN_FILE_EXERCISE)


def own_file(config: Settings, bucket: Bucket) -> Item:
    """Check the learner's scored file: its rows, a blank, and its predictions in the database."""
    rows = pd.read_csv(BytesIO(bucket.read_path(OWN_FILE)))
    stored = rows["prediction_id"].isin(predictions.load(config.predictions_uri)["id"])
    blanks = int(rows[FEATURES].isna().sum().sum())
    what = f"{OWN_FILE}: {len(rows)} rows, {blanks} blank(s), {stored.sum()} prediction(s) stored"
    return Item(what, len(rows) >= OWN_ROWS and blanks > 0 and all(stored), OWN_FILE_EXERCISE)


def monitoring(config: Settings) -> Iterator[Item]:
    """Chapter 5: the simulation, and monitoring runs on your own predictions."""
    complete = (config.local / "simulation" / "summary.json").is_file()
    yield Item("the simulation, complete", complete, "make simulate")
    report = config.home / "monitoring" / "report.html"
    yield Item(f"its report: {report}", report.is_file(), "make simulate")
    records = load_records(config)
    last = f", the last one {records[-1].result.name}" if records else ""
    yield Item(f"monitoring runs on your own predictions: {len(records)}{last}", bool(records), "make monitor")
    with tracking.store(config) as store:
        yield own_threshold(store)


def own_threshold(store: Store) -> Item:
    """Check the learner's newest threshold: how often it alerts in calm weeks, and in shifted ones."""
    exercise = 'finish "Make something: a drift threshold of your own" in monitoring/README.md'
    experiment = store.client.get_experiment_by_name("drift")
    wanted = f"attributes.run_name = '{OWN_THRESHOLD}'"
    runs = store.client.search_runs([experiment.experiment_id], wanted, max_results=1) if experiment else []
    if not runs:
        return Item(f"runs {OWN_THRESHOLD}: none", False, exercise)
    data = runs[0].data
    missing = float("nan")
    try:
        weeks = float(data.params.get("weeks", 0))
    except ValueError:
        weeks = missing
    alarms, detected = (data.metrics.get(name, missing) for name in ("false_alarms", "detected"))
    what = f"{OWN_THRESHOLD}: alerts in {alarms:.1%} of {weeks:g} calm weeks, in {detected:.1%} of the shifted ones"
    return Item(what, weeks >= CALM_WEEKS and alarms <= FALSE_ALARMS and detected > alarms, exercise)


def scaling(config: Settings) -> Iterator[Item]:
    """Chapter 6: Dask, a dataset of many rows and a version trained on it, and a search with a window."""
    installed = find_spec("distributed") is not None
    yield Item(f"Dask: {'installed' if installed else 'not installed'}", installed, "make setup-scaling")
    with tracking.store(config) as store:
        runs = store.client.search_runs([store.experiment_id])
    at_scale = [run for run in runs if MODE in run.data.tags]
    train = "make rows, then make train-at-scale"
    yield Item(f"training runs on many rows: {len(at_scale)}", bool(at_scale), train)
    from_disk = [run for run in at_scale if run.data.tags[MODE].startswith(EXTERNAL_MEMORY)]
    exercise = 'finish "Make something: a step that scales" in scaling/README.md'
    yield Item(f"of these, from disk: {len(from_disk)}", bool(from_disk), exercise)
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
    """Print a line for each result of a chapter, and what to do next; a missing result is not an error."""
    next_step = ""
    for item in CHECKS[chapter_of(sys.argv[1:], "check")](connect_quietly()):
        print(f"{'done' if item.done else 'missing':<9} {item.what}")
        next_step = next_step or ("" if item.done else item.next_step)
    print(f"next      {next_step or 'nothing is missing; go on with the next chapter'}")


if __name__ == "__main__":
    sys.exit(exit_code(main))
