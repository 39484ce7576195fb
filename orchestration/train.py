"""Train the wine model, from the wine to the bucket.

The flow reads as the chapter does. Wine is loaded and checked; each distinct wine goes to one side, to be trained on or
to be held out; the usual models are cross-validated on the training side, and a short search looks for a better one.
The best is fitted, scored once on the hold-out, and registered. It becomes champion only where it beats the champion.
What the run made goes to the bucket, and a report says what happened and where to look.

Tasks that depend on the world outside (a download, the tracking store, the bucket) are tried again four times, waiting
twice as long each time. A task that only computes is not: it would fail the same way again.

Run it with `python -m orchestration.train`, or `make run`.
"""

import logging
import os
import sys
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
from mlflow import MlflowClient
from prefect import flow, task
from prefect.artifacts import create_markdown_artifact
from prefect.logging.configuration import setup_logging
from prefect.runtime import flow_run
from prefect.tasks import exponential_backoff
from pydantic import Field
from rich.console import Console
from rich.markdown import Markdown
from sklearn.pipeline import Pipeline
from tqdm import tqdm

from orchestration import prepare_home
from orchestration.bucket import whereabouts, wine_bucket
from orchestration.report import Training, bucket_text, report
from wine_quality import data as sources
from wine_quality import registry, splits, storage, tracking, tuning
from wine_quality.config import Settings, settings
from wine_quality.data import Wine
from wine_quality.errors import DataError, DownloadError, StorageError, StorageUnavailable, TrackingError, exit_code
from wine_quality.metrics import scores
from wine_quality.models import BASELINES, build, cross_predict, fit, predict
from wine_quality.reading import read_wines
from wine_quality.registry import Verdict
from wine_quality.schema import TARGET
from wine_quality.tracking import Tracked
from wine_quality.tuning import Choice

log = logging.getLogger("wine_quality.train")

Sides = tuple[pd.DataFrame, pd.DataFrame]


def world_failed(_task: Any, _run: Any, state: Any) -> bool:
    """Say whether a task failed because of the world outside, and tell the reader that it is tried again."""
    error = state.result(raise_on_failure=False)
    passing = isinstance(error, DownloadError | StorageUnavailable | TrackingError)
    if passing:
        log.warning("%s Trying again.", error)
    return passing


outside = {
    "retries": 4,
    "retry_delay_seconds": exponential_backoff(backoff_factor=0.5),
    "retry_condition_fn": world_failed,
}


@task(**outside)
def load(config: Settings) -> Wine:
    """Get the wine that the settings name."""
    wine = sources.load_wine(config)
    log.info("load      %s rows: %s", f"{len(wine.table):,}", wine.why)
    return wine


@task
def load_sides(train_file: Path | None, validation_file: Path | None) -> tuple[Wine, Sides, list[str]]:
    """Read a training and a validation file, and refuse them where a wine stands in both."""
    if not (train_file and validation_file):
        raise DataError("train_file and validation_file go together. Give both, or neither: the flow splits by itself.")
    sides = read_wines(train_file), read_wines(validation_file)
    splits.assert_no_leak(*sides, f"{train_file} and {validation_file}")
    wine = Wine(pd.concat(sides), "files", f"trained on {train_file}, scored on {validation_file}")
    return wine, tuple(splits.distinct_wines(side) for side in sides), []


@task
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


@task
def check_sides(train: pd.DataFrame, holdout: pd.DataFrame) -> str:
    """Assert that no wine stands on both sides, and say how alike they are."""
    splits.assert_no_leak(train, holdout)
    chance = splits.split_balance(train, holdout)
    note = f"{len(train):,} wines to train on, {len(holdout):,} held out, none on both sides"
    log.info("split     %s", note)
    return f"{note} (type and quality on both sides, chi-squared test: p = {chance:.2f}; near 0 they would be unlike)"


@task
def baseline(train: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Cross-validate the usual models as they come, and return a row of scores for each."""
    parts, rows = splits.folds(train, seed), {}
    for name in tqdm(BASELINES, desc="baseline", disable=None, leave=False):
        rows[name] = scores(train[TARGET].to_numpy(), cross_predict(build(name, seed), train, parts))
    leaderboard = pd.DataFrame(rows).T.sort_values("rmse")
    best = leaderboard.iloc[0]
    log.info("baseline  %d models, best %s: RMSE %.4f, R² %.3f", len(rows), best.name, best["rmse"], best["r2"])
    return leaderboard


@task
def search(train: pd.DataFrame, leaderboard: pd.DataFrame, max_evals: int, seed: int) -> tuple[pd.DataFrame, Choice]:
    """Search for better models, add the best of each family to the leaderboard, and choose the best of all."""
    found = tuning.finalists(tuning.search(train, max_evals, seed), train, seed)
    choices = {f"{one.choice.name}, searched": one.choice for one in found}
    rows = [scores(train[TARGET].to_numpy(), one.predicted) for one in found]
    leaderboard = pd.concat([leaderboard, pd.DataFrame(rows, index=list(choices))]).sort_values("rmse", kind="stable")
    best = leaderboard.index[0]
    log.info("search    %d trials; the best of all is %s, RMSE %.4f", max_evals, best, leaderboard["rmse"].iloc[0])
    return leaderboard, choices.get(best, Choice(best, {}))


@task
def final_fit(train: pd.DataFrame, choice: Choice, seed: int) -> Pipeline:
    """Fit the chosen model on the whole training side."""
    return fit(build(choice.name, seed, **choice.params), train)


@task
def score(pipeline: Pipeline, holdout: pd.DataFrame) -> dict[str, float]:
    """Score the hold-out."""
    result = scores(holdout[TARGET].to_numpy(), predict(pipeline, holdout))
    log.info("score     on the hold-out: RMSE %.4f, R² %.3f", result["rmse"], result["r2"])
    return result


@task(**outside)
def track(config: Settings, training: Training, pipeline: Pipeline, sides: Sides, tags: dict[str, str]) -> Tracked:
    """Log the run, its wine and its model to MLflow."""
    choice, name = training.choice, f"{training.choice.name}-{datetime.now():%Y-%m-%d-%H%M%S}"
    params = {"model": choice.name, "seed": config.seed, **choice.params}
    metrics = {f"cv_{name}": value for name, value in training.leaderboard.iloc[0].items()}
    with tracking.store(config):
        run = tracking.log_run(name, pipeline, sides, training.wine.source, params=params, metrics=metrics, tags=tags)
    log.info("track     run %s", name)
    return run


@task(**outside)
def judge(config: Settings, pipeline: Pipeline, sides: Sides, source: str) -> Verdict:
    """Let the new model meet the champion at the gate."""
    with tracking.store(config):
        return registry.gate(config, pipeline, *sides, source)


@task(**outside)
def register(config: Settings, run: Tracked, verdict: Verdict, tags: dict[str, str]) -> str:
    """Register the model as a new version, and make it champion where the gate says so."""
    with tracking.store(config):
        version = registry.register(config, run, tags)
        if verdict.promoted:
            registry.promote(config, version)
    fate = "the champion" if verdict.promoted else "a challenger"
    log.info("register  version %s is %s: %s", version, fate, verdict.reason)
    return version


@task(**outside)
def stage(config: Settings, run: Tracked, sides: Sides, text: str) -> list[str]:
    """Put the model as it was registered, its wine and its report where they wait to be pushed."""
    with tracking.store(config):
        model = tracking.copy_model(run.model_id, config.models / "wine-quality.skops")
    wines = pd.concat(sides).to_csv(index=False).encode()
    files = {"model.skops": model, "wines.csv": wines, "report.md": text.encode()}
    return storage.stage(config.outbox, run.run_id, files)


@task(**outside)
def push(config: Settings) -> list[str]:
    """Push every run that waits to the bucket, and return their ids."""
    with wine_bucket(config) as bucket:
        pushed = storage.push_waiting(bucket, config.outbox)
    log.info("push      %d run(s) to the bucket %s", len(pushed), config.bucket)
    return pushed


@task(**outside)
def publish(config: Settings, run: Tracked, text: str) -> None:
    """Keep the report with the flow run and with the MLflow run, and show it on the screen."""
    with tracking.store(config):
        create_markdown_artifact(text, key="training-report", description="What the training run found and made")
        MlflowClient().log_text(run.run_id, text, "report.md")
    console = Console()
    Console(width=None if console.is_terminal else 120).print(Markdown(text))


@flow(name="train-wine-quality")
def train_wine_quality(
    data: str | None = None,
    train_file: Path | None = None,
    validation_file: Path | None = None,
    max_evals: Annotated[int, Field(ge=1, le=500)] = 6,
    seed: Annotated[int | None, Field(ge=0, le=2**32 - 1)] = None,
) -> str:
    """Train, score, register and push the wine model, and return the id of its MLflow run.

    Args:
        data: Which wine: auto, uci, kaggle, sample, or a folder. Left empty, WINE_DATA says.
        train_file: A CSV to train on, in place of `data`. It goes with `validation_file`.
        validation_file: A CSV to score on. No wine may stand in both files.
        max_evals: How many trials the search makes.
        seed: Same seed and same wine, same model. Left empty, WINE_SEED says.
    """
    config = settings(data=data, seed=seed)
    if train_file or validation_file:
        wine, sides, notes = load_sides(train_file, validation_file)
    else:
        wine = load(config)
        distinct, notes = check(wine)
        sides = splits.train_holdout_split(distinct)
    train, holdout = sides
    notes.append(check_sides(train, holdout))

    leaderboard = baseline(train, config.seed)
    leaderboard, choice = search(train, leaderboard, max_evals, config.seed)
    pipeline = final_fit(train, choice, config.seed)
    training = Training(wine, notes, leaderboard, choice, score(pipeline, holdout))

    tags = {
        "data_source": wine.source,
        "data": wine.why,
        "data_sha256": sources.table_checksum(wine.table),
        "git_commit": tracking.git_commit(),
    }
    run = track(config, training, pipeline, sides, tags)
    verdict = judge(config, pipeline, sides, wine.source)
    version = register(config, run, verdict, tags)

    text = report(training, verdict, run, version, config, flow_run.id)
    staged = stage(config, run, sides, text)
    try:
        bucket = bucket_text(run, staged, push(config), whereabouts(config))
    except StorageError as error:
        publish(
            config, run, f"{text}\n\n## Bucket\n\nNot pushed: {error} The model is registered; the next run pushes it."
        )
        raise
    publish(config, run, f"{text}\n\n## Bucket\n\n{bucket}")
    return run.run_id


def main() -> None:
    """Run the flow on a quiet screen: its own lines and the report."""
    prepare_home()
    os.environ["PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL"] = "CRITICAL"
    setup_logging()
    screen = logging.StreamHandler(sys.stdout)
    logging.getLogger("wine_quality").addHandler(screen)
    train_wine_quality()


if __name__ == "__main__":
    sys.exit(exit_code(main))
