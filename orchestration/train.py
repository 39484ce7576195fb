"""Train the wine model, from the wine to the bucket.

The flow reads as the chapter does, in three subflows and an end. `prepare-data` loads the wine and checks it; each
distinct wine goes to the training set or to the gate set. `train-models` cross-validates the baselines on
the training side, lets a short search look for a better one, fits the best and scores it once on the gate set.
`publish-model` tracks the run and registers the model; it becomes champion only where it beats the champion. At the end
what the run made goes to the bucket, and a report says what happened and where to look. If a version was already made
from the same data, parameters, seed, code and libraries, nothing new is registered or pushed.

Flows and tasks take plain parameters, which Prefect stores and shows. A task that needs an address or a key reads the
settings itself.

Tasks that depend on the world outside (a download, the tracking store, the bucket) are tried again four times, waiting
twice as long each time. A task that only computes is not: it would fail the same way again. Instead the results of the
two that take long are kept, and used again where nothing that they depend on has changed.

Run it with `python -m orchestration.train`, or `make run`.
"""

import logging
import sys
from datetime import datetime
from pathlib import Path
from typing import Annotated

import pandas as pd
from mlflow import MlflowClient
from prefect import flow, task
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.runtime import flow_run
from prefect.settings import get_current_settings
from pydantic import Field
from sklearn.pipeline import Pipeline
from tqdm import tqdm

from orchestration import prepare_home
from orchestration.bucket import bucket_line, wine_bucket
from orchestration.policies import CODE_SHA256, asked_for, kept, one_heartbeat, outside, recipe, run_name, uncached
from orchestration.report import (
    REPORT,
    Prepared,
    Published,
    Trained,
    bucket_text,
    deleted_text,
    gate_text,
    links,
    report,
    unchanged_text,
)
from orchestration.show import leave_artifacts, only_own_lines, print_report
from wine_quality import data as sources
from wine_quality import registry, retention, scoring, splits, storage, tracking, tuning
from wine_quality.config import settings
from wine_quality.data import Wine
from wine_quality.errors import DataError, StorageError, WineError, exit_code
from wine_quality.files import one_at_a_time
from wine_quality.metrics import scores
from wine_quality.models import BASELINES, MODELS, build, cross_predict, fit, predict
from wine_quality.reading import read_wines
from wine_quality.registry import Verdict
from wine_quality.schema import TARGET
from wine_quality.tracking import MODEL_FILE, WINES, Tracked
from wine_quality.tuning import Choice, Trial

log = logging.getLogger("wine_quality.train")

Sides = tuple[pd.DataFrame, pd.DataFrame]


@task(name="load", task_run_name="load {source}", **outside)
def load(source: str) -> Wine:
    """Get the dataset that a source names, as `WINE_DATA` does."""
    wine = sources.load_wine(settings(data=source))
    log.info("load      %s rows: %s", f"{len(wine.table):,}", wine.why)
    return wine


@task(name="load two files", task_run_name="load two files", **uncached)
def load_sides(train_file: Path | None, validation_file: Path | None) -> tuple[Wine, Sides, list[str]]:
    """Read a training and a validation file, and refuse them where a wine stands in both."""
    if not (train_file and validation_file):
        raise DataError("train_file and validation_file go together. Give both, or neither: the flow splits by itself.")
    sides = read_wines(train_file), read_wines(validation_file)
    splits.assert_no_leak(*sides, f"{train_file} and {validation_file}")
    wine = Wine(pd.concat(sides), "files", f"trained on {train_file}, scored on {validation_file}")
    return wine, tuple(splits.distinct_wines(side) for side in sides), []


@task(name="check", task_run_name="check", **uncached)
def check(wine: Wine) -> tuple[pd.DataFrame, list[str]]:
    """Find the distinct wines, and note what repeats and what leaks."""
    distinct = splits.distinct_wines(wine.table)
    repeats, blanks = len(wine.table) - len(distinct), sources.blank_cells(distinct)
    notes = [f"{len(wine.table):,} rows, of which {repeats:,} repeat another: {len(distinct):,} distinct wines"]
    if wine.pair:
        share = splits.leaked_share(*wine.pair)
        notes.append(f"{share:.2%} of the validation set also stand in the training set, so both were split anew")
    if blanks:
        notes.append(f"{blanks} cells are blank; each gets the mean of its column on the training side")
    log.info("check     %s", "; ".join(notes))
    return distinct, notes


@task(name="check the split", task_run_name="check the split", **uncached)
def check_sides(train: pd.DataFrame, gate_set: pd.DataFrame) -> str:
    """Assert that no wine stands on both sides, and say how alike they are."""
    splits.assert_no_leak(train, gate_set)
    chance = splits.split_balance(train, gate_set)
    note = f"{len(train):,} rows in the training set, {len(gate_set):,} in the gate set, none in both"
    log.info("split     %s", note)
    return f"{note} (type and quality on both sides, chi-squared test: p = {chance:.2f}; near 0 they would be unlike)"


@task(name="baseline", task_run_name="baseline", **kept)
def baseline(train: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Cross-validate the baselines, with library defaults and hand-tuned, and return a row of scores for each."""
    parts, rows = splits.folds(train, seed), {}
    for name in tqdm(BASELINES, desc="baseline", disable=None, leave=False):
        rows[name] = scores(train[TARGET].to_numpy(), cross_predict(build(name, seed), train, parts))
    leaderboard = pd.DataFrame(rows).T.sort_values("rmse")
    best = leaderboard.iloc[0]
    log.info("baseline  %d models, best %s: RMSE %.4f, R² %.3f", len(rows), best.name, best["rmse"], best["r2"])
    return leaderboard


@task(name="search", task_run_name="search, {max_evals} trials", **kept)
def search(train: pd.DataFrame, leaderboard: pd.DataFrame, max_evals: int, seed: int) -> tuple[pd.DataFrame, Choice]:
    """Search for better models, add the best of each family to the leaderboard, and choose the best of all."""
    progress = create_progress_artifact(0.0, key="search-progress", description=f"The search, {max_evals} trials")

    def tell(trial: Trial) -> None:
        update_progress_artifact(progress, 100 * (trial.number + 1) / max_evals)

    found = tuning.finalists(tuning.search(train, max_evals, seed, tell=tell), train, seed)
    choices = {f"{one.choice.name}, searched": one.choice for one in found}
    rows = [scores(train[TARGET].to_numpy(), one.predicted) for one in found]
    leaderboard = pd.concat([leaderboard, pd.DataFrame(rows, index=list(choices))]).sort_values("rmse", kind="stable")
    best = leaderboard.index[0]
    log.info("search    %d trials; the best of all is %s, RMSE %.4f", max_evals, best, leaderboard["rmse"].iloc[0])
    return leaderboard, choices.get(best) or Choice(best, MODELS[best].params)


@task(name="fit", task_run_name="fit {choice.name}", **uncached)
def final_fit(train: pd.DataFrame, choice: Choice, seed: int) -> Pipeline:
    """Fit the chosen model on the whole training side."""
    return fit(build(choice.name, seed, **choice.params), train)


@task(name="score on the gate set", task_run_name="score on the gate set", **uncached)
def score(pipeline: Pipeline, gate_set: pd.DataFrame) -> dict[str, float]:
    """Score the gate set."""
    result = scores(gate_set[TARGET].to_numpy(), predict(pipeline, gate_set))
    log.info("score     on the gate set: RMSE %.4f, R² %.3f", result["rmse"], result["r2"])
    return result


@task(name="track", task_run_name="track", **outside)
def track(prepared: Prepared, trained: Trained, seed: int, name: str, tags: dict[str, str]) -> Tracked:
    """Log the run, its rows and its model to MLflow."""
    params = {"model": trained.choice.name, "seed": seed, **trained.choice.params}
    metrics = {f"cv_{measure}": value for measure, value in trained.leaderboard.iloc[0].items()}
    with tracking.store(settings()):
        run = tracking.log_run(name, trained.pipeline, prepared.sides, prepared.wine.source, params, metrics, tags)
        MlflowClient().log_text(run.run_id, as_csv(prepared.sides), WINES)
    log.info("track     run %s", name)
    return run


def as_csv(sides: Sides) -> str:
    """Return the rows of both sides as CSV."""
    return pd.concat(sides).to_csv(index=False)


@task(name="judge", task_run_name="judge", **outside)
def judge(pipeline: Pipeline, prepared: Prepared, seed: int) -> Verdict:
    """Let the new model meet the champion at the gate."""
    config = settings(seed=seed)
    with tracking.store(config):
        return registry.gate(config, pipeline, *prepared.sides, prepared.wine.source)


@task(name="register", task_run_name="register", **outside)
def register(run: Tracked, tags: dict[str, str], verdict: Verdict) -> str:
    """Register the model as a new version, a challenger, and say in its description how it compares."""
    config = settings()
    with tracking.store(config):
        version = registry.register(config, run, tags)
        registry.explain(config, version, verdict)
    return version


@task(name="stage", task_run_name="stage", **outside)
def stage(run: Tracked, sides: Sides, text: str) -> list[str]:
    """Put the model as it was registered, its rows and its report where they wait to be pushed."""
    config = settings()
    with tracking.store(config):
        model = tracking.copy_model(run.model_id, config.models / "wine-quality.skops")
    files = {MODEL_FILE: model, WINES: as_csv(sides).encode(), REPORT: text.encode()}
    return storage.stage(config.outbox, run.run_id, files)


@task(name="promote", task_run_name="promote version {version}", **outside)
def promote(version: str, gate_set: pd.DataFrame) -> None:
    """Make the version the champion, with an ONNX graph where that scores faster."""
    config = settings()
    with tracking.store(config):
        scoring.prepare(config, version, gate_set)
        registry.promote(config, version)


@task(name="look for the same model", task_run_name="look for the same model", **outside)
def find_same(made: str) -> tuple[str, Tracked, bool] | None:
    """Return the version that was made the same way, its run, and whether it is the champion; None if there is none."""
    config = settings()
    with tracking.store(config):
        if (version := registry.same_recipe(config, made)) is None:
            return None
        run, champion = MlflowClient().get_run(version.run_id), registry.champion(config)
        tracked = Tracked(version.run_id, run.info.experiment_id, retention.model_ids(run)[0])
        return str(version.version), tracked, champion is not None and champion.version == version.version


@task(name="note how it was made", task_run_name="note how version {version} was made", **outside)
def note_recipe(version: str, made: str) -> None:
    """Note on a version how it was made, now that all of it is published."""
    config = settings()
    with tracking.store(config):
        registry.note_recipe(config, version, made)


@task(name="push", task_run_name="push", **outside)
def push() -> tuple[list[str], str]:
    """Push every run that waits to the bucket, and return their ids and where the bucket is."""
    config = settings()
    with one_at_a_time(config.local / "outbox.lock"), wine_bucket(config) as (bucket, where):
        pushed = storage.push_waiting(bucket, config.outbox)
    log.info("push      %d run(s) to the bucket %s", len(pushed), bucket.bucket_name)
    return pushed, where


@task(name="delete old files", task_run_name="delete old files", **outside)
def delete_old_files() -> str:
    """Delete the files of all but the newest runs, as `WINE_KEEP_RUNS` says, and return a sentence about it."""
    config = settings()
    with one_at_a_time(config.local / "registry.lock"), tracking.store(config):
        old = retention.beyond_newest(config, config.keep_runs)
        if old:
            with wine_bucket(config) as (bucket, _):
                for version in old:
                    retention.delete_files(config, bucket, version)
            log.info("delete    the files of %d older run(s); the newest %d keep theirs", len(old), config.keep_runs)
    return deleted_text(len(old), config.keep_runs)


@task(name="tell", task_run_name="tell", **outside)
def tell(trained: Trained, published: Published, text: str) -> None:
    """Keep the report with the MLflow run and with the flow run, and show it on the screen."""
    config = settings()
    with tracking.store(config):
        leave_artifacts(config, trained, published, text)
    print_report(text)


@flow(name="prepare-data", flow_run_name="load, check, split", validate_parameters=False)
def prepare_data(source: str, train_file: Path | None, validation_file: Path | None) -> Prepared:
    """Load the wine, check it, and split it."""
    if train_file or validation_file:
        wine, (train, gate_set), notes = load_sides(train_file, validation_file)
    else:
        wine = load(source)
        distinct, notes = check(wine)
        train, gate_set = splits.train_gate_split(distinct)
    return Prepared(wine, [*notes, check_sides(train, gate_set)], train, gate_set)


@flow(name="train-models", flow_run_name="compare, search, fit", validate_parameters=False)
def train_models(prepared: Prepared, max_evals: int, seed: int) -> Trained:
    """Find the best model on the training side, fit it, and score it once on the gate set."""
    leaderboard = baseline(prepared.train, seed)
    leaderboard, choice = search(prepared.train, leaderboard, max_evals, seed)
    pipeline = final_fit(prepared.train, choice, seed)
    return Trained(leaderboard, choice, pipeline, score(pipeline, prepared.gate_set))


@flow(name="publish-model", flow_run_name="track, judge, register", validate_parameters=False)
def publish_model(prepared: Prepared, trained: Trained, seed: int, started: datetime) -> Published:
    """Track the run and register its model, unless a version was made the same way and no fresh one is asked for."""
    made, fresh = recipe(prepared.sides, trained.choice, seed), get_current_settings().tasks.refresh_cache
    with one_at_a_time(settings().local / "registry.lock"):
        if not fresh and (same := find_same(made)):
            return unchanged(prepared, trained, *same)
        published = publish_new(prepared, trained, seed, started)
        note_recipe(published.version, made)
    return published


def unchanged(prepared: Prepared, trained: Trained, version: str, run: Tracked, is_champion: bool) -> Published:
    """Say that a version was made the same way already."""
    log.info("register  nothing new: version %s has the same data, parameters, seed, code and libraries", version)
    pages = links(run, version, settings(), flow_run.root_flow_run_id)
    return Published(run, version, report(prepared, trained, unchanged_text(version, is_champion), pages), [])


def publish_new(prepared: Prepared, trained: Trained, seed: int, started: datetime) -> Published:
    """Track, compare, register, and make the version champion if it wins: last of all, when its files are safe."""
    tags = {
        "data_source": prepared.wine.source,
        "data": prepared.wine.why,
        "data_sha256": sources.table_checksum(prepared.wine.table),
        registry.DISTINCT_ROWS: sources.table_checksum(splits.distinct_wines(prepared.wine.table)),
        "code_sha256": CODE_SHA256,
        "git_commit": tracking.git_commit(),
    }
    run = track(prepared, trained, seed, f"{trained.choice.name}-{started:%Y-%m-%d-%H%M%S}", tags)
    verdict = judge(trained.pipeline, prepared, seed)
    version = register(run, tags, verdict)
    pages = links(run, version, settings(), flow_run.root_flow_run_id)
    text = report(prepared, trained, gate_text(verdict, version), pages)
    staged = stage(run, prepared.sides, text)
    if verdict.promoted:
        promote(version, prepared.gate_set)
    fate = "the champion" if verdict.promoted else "a challenger"
    log.info("register  version %s is %s: %s", version, fate, verdict.reason)
    return Published(run, version, text, staged)


@flow(name="train-wine-quality", flow_run_name=run_name)
def train_wine_quality(
    data: str | None = None,
    train_file: Path | None = None,
    validation_file: Path | None = None,
    max_evals: Annotated[int, Field(ge=1, le=500)] = 6,
    seed: Annotated[int | None, Field(ge=0, le=2**32 - 1)] = None,
) -> str:
    """Train, score, register and push the wine model, and return the id of its MLflow run.

    If nothing changed, that is the run of the version that was made the same way.

    Args:
        data: Which wine: auto, uci, kaggle, sample, or a folder. Left empty, WINE_DATA says.
        train_file: A CSV to train on, in place of `data`. It goes with `validation_file`.
        validation_file: A CSV to score on. No wine may stand in both files.
        max_evals: How many trials the search makes.
        seed: Same seed and same wine, same model. Left empty, WINE_SEED says.
    """
    config = settings(data=data, seed=seed)
    log.info("bucket    %s", bucket_line(config))
    with one_heartbeat():
        prepared = prepare_data(config.data, train_file, validation_file)
        trained = train_models(prepared, max_evals, config.seed)
        published = publish_model(prepared, trained, config.seed, asked_for())
    deliver(trained, published)
    return published.run.run_id


def deliver(trained: Trained, published: Published) -> None:
    """Push, delete old files and show the report. If one of the first two fails, the run fails, but nothing is lost."""
    head = f"{published.text}\n\n## Bucket\n\n"
    try:
        bucket = bucket_text(published, *push())
    except StorageError as error:
        tell(trained, published, f"{head}Not pushed: {error} The model is registered; the next run pushes it.")
        raise
    try:
        deleted = delete_old_files()
    except WineError as error:
        late = f"Old files were not deleted: {error} The model is registered and pushed; the next run deletes them."
        tell(trained, published, f"{head}{bucket} {late}")
        raise
    tell(trained, published, f"{head}{bucket}{deleted}")


def main() -> None:
    """Run the flow on a quiet screen: its own lines and the report."""
    prepare_home()
    only_own_lines()
    train_wine_quality()


if __name__ == "__main__":
    sys.exit(exit_code(main))
