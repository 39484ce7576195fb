"""Train the wine model, from the wine to the bucket.

The flow reads as the chapter does, in three subflows and an end. `prepare-data` loads the wine and checks it; each
distinct wine goes to one side, to be trained on or to be held out. `train-models` cross-validates the usual models on
the training side, lets a short search look for a better one, fits the best and scores it once on the hold-out.
`publish-model` tracks the run and registers the model; it becomes champion only where it beats the champion. At the end
what the run made goes to the bucket, and a report says what happened and where to look.

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
from prefect import flow, task
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.runtime import flow_run
from pydantic import Field
from sklearn.pipeline import Pipeline
from tqdm import tqdm

from orchestration import prepare_home
from orchestration.bucket import wine_bucket
from orchestration.policies import asked_for, kept, one_heartbeat, outside, run_name
from orchestration.report import Prepared, Published, Trained, bucket_text, links, report
from orchestration.show import leave_artifacts, only_own_lines, print_report
from wine_quality import data as sources
from wine_quality import registry, scoring, splits, storage, tracking, tuning
from wine_quality.config import Settings, settings
from wine_quality.data import Wine
from wine_quality.errors import DataError, StorageError, exit_code
from wine_quality.files import one_at_a_time
from wine_quality.metrics import scores
from wine_quality.models import BASELINES, build, cross_predict, fit, predict
from wine_quality.reading import read_wines
from wine_quality.registry import Verdict
from wine_quality.schema import TARGET
from wine_quality.tracking import Tracked
from wine_quality.tuning import Choice, Trial

log = logging.getLogger("wine_quality.train")

Sides = tuple[pd.DataFrame, pd.DataFrame]


@task(name="load", task_run_name="load {config.data}", **outside)
def load(config: Settings) -> Wine:
    """Get the wine that the settings name."""
    wine = sources.load_wine(config)
    log.info("load      %s rows: %s", f"{len(wine.table):,}", wine.why)
    return wine


@task(name="load two files", task_run_name="load two files")
def load_sides(train_file: Path | None, validation_file: Path | None) -> tuple[Wine, Sides, list[str]]:
    """Read a training and a validation file, and refuse them where a wine stands in both."""
    if not (train_file and validation_file):
        raise DataError("train_file and validation_file go together. Give both, or neither: the flow splits by itself.")
    sides = read_wines(train_file), read_wines(validation_file)
    splits.assert_no_leak(*sides, f"{train_file} and {validation_file}")
    wine = Wine(pd.concat(sides), "files", f"trained on {train_file}, scored on {validation_file}")
    return wine, tuple(splits.distinct_wines(side) for side in sides), []


@task(name="check", task_run_name="check")
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


@task(name="check the split", task_run_name="check the split")
def check_sides(train: pd.DataFrame, holdout: pd.DataFrame) -> str:
    """Assert that no wine stands on both sides, and say how alike they are."""
    splits.assert_no_leak(train, holdout)
    chance = splits.split_balance(train, holdout)
    note = f"{len(train):,} wines to train on, {len(holdout):,} held out, none on both sides"
    log.info("split     %s", note)
    return f"{note} (type and quality on both sides, chi-squared test: p = {chance:.2f}; near 0 they would be unlike)"


@task(name="baseline", task_run_name="baseline", **kept)
def baseline(train: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Cross-validate the usual models as they come, and return a row of scores for each."""
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
    return leaderboard, choices.get(best, Choice(best, {}))


@task(name="fit", task_run_name="fit {choice.name}")
def final_fit(train: pd.DataFrame, choice: Choice, seed: int) -> Pipeline:
    """Fit the chosen model on the whole training side."""
    return fit(build(choice.name, seed, **choice.params), train)


@task(name="score on the hold-out", task_run_name="score on the hold-out")
def score(pipeline: Pipeline, holdout: pd.DataFrame) -> dict[str, float]:
    """Score the hold-out."""
    result = scores(holdout[TARGET].to_numpy(), predict(pipeline, holdout))
    log.info("score     on the hold-out: RMSE %.4f, R² %.3f", result["rmse"], result["r2"])
    return result


@task(name="track", task_run_name="track", **outside)
def track(config: Settings, prepared: Prepared, trained: Trained, name: str, tags: dict[str, str]) -> Tracked:
    """Log the run, its wine and its model to MLflow."""
    params = {"model": trained.choice.name, "seed": config.seed, **trained.choice.params}
    metrics = {f"cv_{measure}": value for measure, value in trained.leaderboard.iloc[0].items()}
    with tracking.store(config):
        run = tracking.log_run(name, trained.pipeline, prepared.sides, prepared.wine.source, params, metrics, tags)
    log.info("track     run %s", name)
    return run


@task(name="judge", task_run_name="judge", **outside)
def judge(config: Settings, pipeline: Pipeline, prepared: Prepared) -> Verdict:
    """Let the new model meet the champion at the gate."""
    with tracking.store(config):
        return registry.gate(config, pipeline, *prepared.sides, prepared.wine.source)


@task(name="register", task_run_name="register", **outside)
def register(config: Settings, run: Tracked, tags: dict[str, str], verdict: Verdict) -> str:
    """Register the model as a new version, a challenger, and say in its description how it compares."""
    with tracking.store(config):
        version = registry.register(config, run, tags)
        registry.explain(config, version, verdict)
    return version


@task(name="stage", task_run_name="stage", **outside)
def stage(config: Settings, run: Tracked, sides: Sides, text: str) -> list[str]:
    """Put the model as it was registered, its wine and its report where they wait to be pushed."""
    with tracking.store(config):
        model = tracking.copy_model(run.model_id, config.models / "wine-quality.skops")
    wines = pd.concat(sides).to_csv(index=False).encode()
    files = {"model.skops": model, "wines.csv": wines, "report.md": text.encode()}
    return storage.stage(config.outbox, run.run_id, files)


@task(name="promote", task_run_name="promote version {version}", **outside)
def promote(config: Settings, version: str, holdout: pd.DataFrame) -> None:
    """Make the version the champion, with an ONNX graph where that scores faster."""
    with tracking.store(config):
        scoring.prepare(config, version, holdout)
        registry.promote(config, version)


@task(name="push", task_run_name="push", **outside)
def push(config: Settings) -> tuple[list[str], str]:
    """Push every run that waits to the bucket, and return their ids and where the bucket is."""
    with one_at_a_time(config.local / "outbox.lock"), wine_bucket(config) as (bucket, where):
        pushed = storage.push_waiting(bucket, config.outbox)
    log.info("push      %d run(s) to the bucket %s", len(pushed), bucket.bucket_name)
    return pushed, where


@task(name="tell", task_run_name="tell", **outside)
def tell(config: Settings, trained: Trained, published: Published, text: str) -> None:
    """Keep the report with the MLflow run and with the flow run, and show it on the screen."""
    with tracking.store(config):
        leave_artifacts(config, trained, published, text)
    print_report(text)


@flow(name="prepare-data", flow_run_name="load, check, split", validate_parameters=False)
def prepare_data(config: Settings, train_file: Path | None, validation_file: Path | None) -> Prepared:
    """Load the wine, check it, and split it."""
    if train_file or validation_file:
        wine, (train, holdout), notes = load_sides(train_file, validation_file)
    else:
        wine = load(config)
        distinct, notes = check(wine)
        train, holdout = splits.train_holdout_split(distinct)
    return Prepared(wine, [*notes, check_sides(train, holdout)], train, holdout)


@flow(name="train-models", flow_run_name="compare, search, fit", validate_parameters=False)
def train_models(config: Settings, prepared: Prepared, max_evals: int) -> Trained:
    """Find the best model on the training side, fit it, and score it once on the hold-out."""
    leaderboard = baseline(prepared.train, config.seed)
    leaderboard, choice = search(prepared.train, leaderboard, max_evals, config.seed)
    pipeline = final_fit(prepared.train, choice, config.seed)
    return Trained(leaderboard, choice, pipeline, score(pipeline, prepared.holdout))


@flow(name="publish-model", flow_run_name="track, judge, register", validate_parameters=False)
def publish_model(config: Settings, prepared: Prepared, trained: Trained, started: datetime) -> Published:
    """Track the run, register its model, and make it champion where it wins: last of all, when its files are safe."""
    tags = {
        "data_source": prepared.wine.source,
        "data": prepared.wine.why,
        "data_sha256": sources.table_checksum(prepared.wine.table),
        "git_commit": tracking.git_commit(),
    }
    run = track(config, prepared, trained, f"{trained.choice.name}-{started:%Y-%m-%d-%H%M%S}", tags)
    with one_at_a_time(config.local / "registry.lock"):
        verdict = judge(config, trained.pipeline, prepared)
        version = register(config, run, tags, verdict)
        pages = links(run, version, config, flow_run.root_flow_run_id)
        text = report(prepared, trained, verdict, run, version, pages)
        staged = stage(config, run, prepared.sides, text)
        if verdict.promoted:
            promote(config, version, prepared.holdout)
    fate = "the champion" if verdict.promoted else "a challenger"
    log.info("register  version %s is %s: %s", version, fate, verdict.reason)
    return Published(run, verdict, version, text, staged)


@flow(name="train-wine-quality", flow_run_name=run_name)
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
    with one_heartbeat():
        prepared = prepare_data(config, train_file, validation_file)
        trained = train_models(config, prepared, max_evals)
        published = publish_model(config, prepared, trained, asked_for())
    try:
        bucket = bucket_text(published, *push(config))
    except StorageError as error:
        late = f"Not pushed: {error} The model is registered; the next run pushes it."
        tell(config, trained, published, f"{published.text}\n\n## Bucket\n\n{late}")
        raise
    tell(config, trained, published, f"{published.text}\n\n## Bucket\n\n{bucket}")
    return published.run.run_id


def main() -> None:
    """Run the flow on a quiet screen: its own lines and the report."""
    prepare_home()
    only_own_lines()
    train_wine_quality()


if __name__ == "__main__":
    sys.exit(exit_code(main))
