"""Train the wine-quality model, from the dataset to the bucket.

Three subflows prepare the data (load and validate, remove duplicates, split), train (baselines, search, final fit) and
publish (track, compare with the champion, register, promote if better). Then the run's files go to the bucket, and a
report says what happened and where to look. If an identical version exists, nothing new is registered or pushed.

Flows and tasks take plain parameters, which Prefect stores and shows. A task that needs an address or a key reads the
settings itself. Tasks that use the network, the tracking store or the bucket retry transient failures. A task that only
computes would fail the same way again, so it isn't retried. The results of two long tasks, the baselines and the
search, are cached, and reused until something that they depend on changes. A search that is interrupted resumes from
its trials.

Run it with `make run`.
"""

import logging
import tempfile
from dataclasses import replace
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
from prefect import flow, task
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.runtime import flow_run
from prefect.settings import get_current_settings
from pydantic import Field
from sklearn.pipeline import Pipeline
from tqdm import tqdm

from orchestration.approval import promote_if_unchanged, propose, reject_cancelled, wait_for_approval
from orchestration.bucket import bucket_line, wine_bucket
from orchestration.gate import gate_lock
from orchestration.policies import (
    CACHED,
    CODE_SHA256,
    RETRIES,
    RETRY_TRANSIENT,
    UNCACHED,
    inputs_checksum,
    one_heartbeat,
    run_name,
    scheduled_time,
)
from orchestration.report import (
    CARD,
    REPORT,
    Prepared,
    Published,
    Trained,
    create_artifacts,
    print_report,
    render_report,
)
from wine_quality import evaluation, intervals, registry, retention, scoring, sources, splits, storage, tracking, tuning
from wine_quality import search as searching
from wine_quality.config import settings
from wine_quality.engines import open_engine
from wine_quality.errors import DataError, LeakError, WineError
from wine_quality.evaluation import Evaluation
from wine_quality.files import exclusive_lock
from wine_quality.metrics import scores
from wine_quality.models import BASELINES, build, fit
from wine_quality.registry import Verdict
from wine_quality.schema import TARGET
from wine_quality.slices import ALL, assert_measurement
from wine_quality.sources import Dataset
from wine_quality.tables import read_table
from wine_quality.templates import render
from wine_quality.tracking import INTERVAL_FILE, MODEL_FILE, ROWS_FILE, Tracked
from wine_quality.tuning import Candidate, Trial

log = logging.getLogger("wine_quality.train")

Split = tuple[pd.DataFrame, pd.DataFrame]


@task(name="load and validate", task_run_name="load and validate {source}", **RETRY_TRANSIENT)
def load(source: str) -> Dataset:
    """Load the dataset from a source, one of the values of `WINE_DATA`, and validate it against the schema."""
    dataset = sources.load_dataset(settings(data=source))
    log.info("load      %s rows: %s", f"{len(dataset.table):,}", dataset.why)
    return dataset


@task(name="load two files", task_run_name="load two files", **UNCACHED)
def load_split(train_file: Path | None, validation_file: Path | None) -> tuple[Dataset, Split, list[str]]:
    """Read a training and a validation file, and raise a `LeakError` if a row is in both, but for blank cells."""
    if not (train_file and validation_file):
        raise DataError("Pass both train_file and validation_file, or neither: then the flow splits the data itself.")
    split = read_table(train_file), read_table(validation_file)
    splits.assert_no_leak(*split, f"{train_file} and {validation_file}")
    dataset = Dataset(pd.concat(split), "files", f"trained on {train_file}, scored on {validation_file}")
    train, gate_set = map(splits.distinct_rows, split)
    if both := len(train) + len(gate_set) - len(splits.distinct_rows(dataset.table)):
        raise LeakError(f"{train_file} and {validation_file}: {both} rows differ only in blank cells. Remove them.")
    return dataset, (train, gate_set), []


@task(name="remove duplicates", task_run_name="remove duplicates", **UNCACHED)
def remove_duplicates(dataset: Dataset) -> tuple[pd.DataFrame, list[str]]:
    """Return the distinct rows, and notes on the duplicates, on blank cells and on how much a given split leaks."""
    distinct = splits.distinct_rows(dataset.table)
    repeats, blanks = len(dataset.table) - len(distinct), sources.blank_cells(distinct)
    notes = [f"{len(dataset.table):,} rows, of which {repeats:,} are duplicates: {len(distinct):,} distinct rows"]
    if dataset.pair:
        share = splits.leaked_fraction(*dataset.pair)
        notes.append(
            f"{share:.2%} of the given validation set is also in its training set, so all rows were split again"
        )
    if blanks:
        notes.append(f"{blanks} cells are blank; each is imputed with the mean of its column in the training set")
    log.info("check     %s", "; ".join(notes))
    return distinct, notes


@task(name="split", task_run_name="split", **UNCACHED)
def split_rows(distinct: pd.DataFrame) -> Split:
    """Split the distinct rows into a training set and a gate set."""
    return splits.train_gate_split(distinct)


@task(name="check the split", task_run_name="check the split", **UNCACHED)
def check_split(train: pd.DataFrame, gate_set: pd.DataFrame) -> str:
    """Assert that no row is in both sets, and test whether their distributions differ."""
    splits.assert_no_leak(train, gate_set)
    chance = splits.split_balance(train, gate_set)
    note = f"{len(train):,} rows in the training set, {len(gate_set):,} in the gate set, none in both"
    log.info("split     %s", note)
    return f"{note} (chi-squared test of type and quality: p = {chance:.2f}; near 0 would mean that they differ)"


@task(name="baseline", task_run_name="baseline", **CACHED)
def baseline(train: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Cross-validate the baselines (library defaults, hand-tuned, a blend); return a column of predictions for each."""
    objective, predicted = tuning.Objective(train, seed), pd.DataFrame(index=train.index)
    for name in tqdm(BASELINES, desc="baseline", disable=None, leave=False):
        predicted[name] = objective.predictions(Candidate(name, {}))
    leaderboard = rank(train, predicted)
    best = leaderboard.iloc[0]
    log.info("baseline  %d models, best %s: RMSE %.4f, R² %.3f", len(leaderboard), best.name, best["rmse"], best["r2"])
    return predicted


def rank(train: pd.DataFrame, predicted: pd.DataFrame) -> pd.DataFrame:
    """Return a row of scores for each column of predictions, the best first."""
    rows = {name: scores(train[TARGET].to_numpy(), column.to_numpy()) for name, column in predicted.items()}
    return pd.DataFrame(rows).T.sort_values("rmse", kind="stable")


@task(name="search", task_run_name="search, {max_evals} trials", **CACHED, **RETRIES)
def search(
    train: pd.DataFrame, predicted: pd.DataFrame, max_evals: int, window: int, seed: int
) -> tuple[pd.DataFrame, Candidate, np.ndarray]:
    """Search for better models, add the best of each family to the baselines, and choose the best of all.

    Return the leaderboard, the choice, and its cross-validated predictions.
    """
    objective = tuning.Objective(train, seed)
    finalists = tuning.finalists(tracked_trials(objective, max_evals, window), objective)
    candidates = {f"{one.candidate.name}, searched": one for one in finalists}
    predicted = predicted.assign(**{name: one.predicted for name, one in candidates.items()})
    leaderboard = rank(train, predicted)
    best = str(leaderboard.index[0])
    log.info("search    %d trials; best overall: %s, RMSE %.4f", max_evals, best, leaderboard["rmse"].iloc[0])
    choice = candidates[best].candidate if best in candidates else Candidate(best, {})
    return leaderboard, choice, predicted[best].to_numpy()


def tracked_trials(objective: tuning.Objective, max_evals: int, window: int) -> list[Trial]:
    """Return the trials of the search, each a run in MLflow, evaluated on the chosen engine; report progress."""
    config, resume = settings(), not get_current_settings().tasks.refresh_cache
    progress = create_progress_artifact(0.0, key="search-progress", description=f"Search, {max_evals} trials")
    ended = count(1)

    def on_trial(_trial: Trial) -> None:
        update_progress_artifact(progress, 100 * next(ended) / max_evals)  # pyright: ignore[reportArgumentType]

    with tracking.store(config) as store, open_engine(config) as engine:
        trials, _parent = searching.search(
            store.client, store.experiment_id, objective, max_evals, config.local,
            engine=engine, window=window, resume=resume, on_trial=on_trial,
        )  # fmt: skip
    return trials


@task(name="fit", task_run_name="fit {choice.name}", **UNCACHED)
def final_fit(train: pd.DataFrame, choice: Candidate, seed: int) -> Pipeline:
    """Fit the chosen model on the whole training set."""
    return fit(build(choice.name, seed, **choice.params), train)


@task(name="fit the intervals", task_run_name="fit the intervals", **UNCACHED)
def fit_intervals(train: pd.DataFrame, predicted: np.ndarray, seed: int) -> Pipeline:
    """Fit the half widths of the prediction intervals on the errors of cross-validation."""
    return intervals.fit_half_width(train, predicted, seed)


@task(name="evaluate on the gate set", task_run_name="evaluate on the gate set", **UNCACHED)
def evaluate(pipeline: Pipeline, interval: Pipeline, gate_set: pd.DataFrame, seed: int) -> Evaluation:
    """Score the gate set, as a whole and by slice, and measure how much each feature matters."""
    result = evaluation.evaluate(pipeline, interval, gate_set, seed, settings().slice)
    coverage = result.slices.loc[ALL, "coverage"]
    log.info("score     on the gate set: RMSE %.4f, R² %.3f", result.scores["rmse"], result.scores["r2"])
    log.info("interval  at %.0f %%: covers %.1f %% of the gate set", 100 * intervals.LEVEL, 100 * coverage)
    return result


@task(name="track", task_run_name="track", **RETRY_TRANSIENT)
def track(prepared: Prepared, trained: Trained, seed: int, name: str, tags: dict[str, str]) -> Tracked:
    """Log the run, its rows and its model to MLflow."""
    params = {"model": trained.choice.name, "seed": seed, **trained.params}
    metrics = {f"{prepared.validation}_{measure}": value for measure, value in trained.leaderboard.iloc[0].items()}
    with tracking.store(settings()) as store:
        run = tracking.log_run(
            store,
            name,
            trained.pipeline,
            prepared.split,
            prepared.dataset.source,
            params,
            metrics,
            tags,
            trained.interval,
            trained.evaluation,
            prepared.whole,
        )
        store.client.log_text(run.run_id, pd.concat(prepared.split).to_csv(index=False), ROWS_FILE)
    log.info("track     run %s", name)
    return run


@task(name="compare with the champion", task_run_name="compare with the champion", **RETRY_TRANSIENT)
def compare(pipeline: Pipeline, prepared: Prepared, seed: int) -> Verdict:
    """Compare the new model with the champion on the gate set."""
    config = settings(seed=seed)
    with tracking.store(config) as store:
        return registry.compare(
            store,
            pipeline,
            *prepared.split,
            prepared.dataset.source,
            seed=seed,
            minimum_gain=config.minimum_gain,
            column=config.slice,
        )


@task(name="record the comparison", task_run_name="record the comparison", **RETRY_TRANSIENT)
def record_comparison(verdict: Verdict) -> None:
    """Tag the champion with the gate set that it was compared on."""
    with tracking.store(settings()) as store:
        registry.record_comparison(store, verdict)


@task(name="register", task_run_name="register", **RETRY_TRANSIENT)
def register(run: Tracked, tags: dict[str, str], verdict: Verdict) -> tuple[str, str]:
    """Register the model as a new version, a challenger, and return its number and its model card."""
    with tracking.store(settings()) as store:
        version = registry.register(store, run, tags)
        card = registry.describe(store, version, verdict, waits=settings().approval == "manual")
        store.client.log_text(run.run_id, card, CARD)
    return version, card


@task(name="add to the outbox", task_run_name="add to the outbox", **RETRY_TRANSIENT)
def add_to_outbox(run: Tracked, split: Split, text: str, card: str) -> list[str]:
    """Queue the model as it was registered, its intervals, rows, report and card for the push."""
    config = settings()
    with exclusive_lock(config.local / "outbox.lock"), tracking.store(config) as store:
        model = tracking.download_model(store, run.model_id, config.models / "wine-quality.skops")
        with tempfile.TemporaryDirectory() as folder:
            interval = store.download(f"runs:/{run.run_id}/{INTERVAL_FILE}", folder)
            rows = pd.concat(split).to_csv(index=False)
            files = {MODEL_FILE: model, INTERVAL_FILE: interval, ROWS_FILE: rows.encode()}
            reports = {REPORT: text.encode(), CARD: card.encode()}
            return storage.add_to_outbox(config.outbox, run.run_id, {**files, **reports})


@task(name="promote", task_run_name="promote version {version}", **RETRY_TRANSIENT)
def promote(version: str, gate_set: pd.DataFrame, opponent: str | None) -> None:
    """Promote the version to champion in place of `opponent`, with an ONNX graph if that scores faster."""
    with tracking.store(settings()) as store:
        scoring.log_graph(store, version, gate_set)
        registry.assert_unchanged(store, version, opponent)
        registry.promote(store, version)


@task(name="promote the approved", task_run_name="promote version {version}, which was approved", **RETRY_TRANSIENT)
def promote_approved(version: str, gate_set: pd.DataFrame, opponent: str | None, reason: str) -> None:
    """Promote a version that a person approved, unless the champion has changed since the comparison."""
    promote_if_unchanged(version, gate_set, opponent, reason)
    log.info("approve   version %s is the champion", version)


@task(name="look for an identical version", task_run_name="look for an identical version", **RETRY_TRANSIENT)
def find_identical(inputs: str) -> tuple[str, Tracked, bool] | None:
    """Return the version that was trained on the same inputs, its run, and whether it is the champion, or None."""
    with tracking.store(settings()) as store:
        if (version := registry.trained_on_same_inputs(store, inputs)) is None:
            return None
        run, champion = store.run_of(version), registry.champion(store)
        tracked = Tracked(run.info.run_id, run.info.experiment_id, retention.model_ids(run)[0])
        return str(version.version), tracked, champion is not None and champion.version == version.version


@task(name="tag the inputs", task_run_name="tag the inputs of version {version}", **RETRY_TRANSIENT)
def tag_inputs(version: str, inputs: str) -> None:
    """Tag a version with the checksum of its inputs, now that all of it is published."""
    with tracking.store(settings()) as store:
        registry.tag_inputs(store, version, inputs)


@task(name="push", task_run_name="push", **RETRY_TRANSIENT)
def push() -> tuple[list[str], str]:
    """Push every queued run to the bucket, and return their ids and where the bucket is."""
    config = settings()
    with exclusive_lock(config.local / "outbox.lock"), wine_bucket(config) as (bucket, where):
        pushed = storage.push_waiting(bucket, config.outbox)
    log.info("push      %d run(s) to the bucket %s", len(pushed), bucket.bucket_name)
    return pushed, where


@task(name="delete old files", task_run_name="delete old files", **RETRY_TRANSIENT)
def delete_old_files() -> int:
    """Delete the files of all but the newest `WINE_KEEP_RUNS` runs; return how many runs had files deleted."""
    config = settings()
    with gate_lock(config), tracking.store(config) as store:
        old = retention.beyond_newest(store, config.keep_runs)
        if old:
            with wine_bucket(config) as (bucket, _):
                for version in old:
                    retention.delete_files(store, bucket, version, config.mlruns)
            log.info("delete    the files of %d older run(s), all but the newest %d", len(old), config.keep_runs)
    return len(old)


@task(name="report", task_run_name="report", **RETRY_TRANSIENT)
def report(trained: Trained, published: Published, text: str) -> None:
    """Publish the report with the MLflow run and the flow run, and print it."""
    config = settings()
    with tracking.store(config) as store:
        create_artifacts(store, config, trained, published, text)
    print_report(text)


@flow(name="prepare-data", flow_run_name="load, remove duplicates, split", validate_parameters=False)
def prepare_data(source: str, train_file: Path | None, validation_file: Path | None) -> Prepared:
    """Load and validate the dataset, remove duplicates, split the rows, and check the split."""
    if train_file or validation_file:
        dataset, (train, gate_set), notes = load_split(train_file, validation_file)
    else:
        dataset = load(source)
        distinct, notes = remove_duplicates(dataset)
        train, gate_set = split_rows(distinct)
    return Prepared(dataset, [*notes, check_split(train, gate_set)], train, gate_set)


@flow(name="train-models", flow_run_name="compare, search, fit", validate_parameters=False)
def train_models(prepared: Prepared, max_evals: int, seed: int) -> Trained:
    """Find the best model on the training set, fit it, and score it once on the gate set."""
    predicted = baseline(prepared.train, seed)
    leaderboard, choice, predicted = search(prepared.train, predicted, max_evals, settings().window, seed)
    pipeline = final_fit(prepared.train, choice, seed)
    interval = fit_intervals(prepared.train, predicted, seed)
    return Trained(leaderboard, choice, pipeline, interval, evaluate(pipeline, interval, prepared.gate_set, seed))


@flow(name="publish-model", flow_run_name="track, compare, register", validate_parameters=False)
def publish_model(prepared: Prepared, trained: Trained, seed: int, started: datetime) -> Published:
    """Track the run and register its model, unless an identical version exists and the cache is in use."""
    whole = f"{prepared.whole.checksum}, {prepared.whole.mode}" if prepared.whole else None
    inputs = inputs_checksum(prepared.split, trained.choice, seed, whole)
    fresh = get_current_settings().tasks.refresh_cache
    with gate_lock(settings()):
        if not fresh and (identical := find_identical(inputs)):
            version, run, is_champion = identical
            why = "has the same data, parameters, seed, code and libraries"
            log.info("register  nothing new: version %s %s", version, why)
            text = render_report(prepared, trained, run, version, is_champion=is_champion)
            return Published(run, version, text, queued=[])
        published = replace(publish_new(prepared, trained, seed, started), inputs=inputs)
        if not published.proposed:
            tag_inputs(published.version, inputs)
    return published


def publish_new(prepared: Prepared, trained: Trained, seed: int, started: datetime) -> Published:
    """Track, compare and register; promote the version if it is better, but only after its files are in the outbox."""
    table, whole = prepared.dataset.table, prepared.whole
    tags = {
        "data_source": prepared.dataset.source,
        "data": prepared.dataset.why,
        "data_sha256": whole.checksum if whole else sources.table_checksum(table),
        registry.DISTINCT_ROWS: whole.checksum if whole else sources.table_checksum(splits.distinct_rows(table)),
        **(whole.tags if whole else {}),
        "code_sha256": CODE_SHA256,
        "git_commit": tracking.git_commit(),
    }
    run = track(prepared, trained, seed, f"{trained.choice.name}-{started:%Y-%m-%d-%H%M%S}", tags)
    verdict = compare(trained.pipeline, prepared, seed)
    record_comparison(verdict)
    version, card = register(run, tags, verdict)
    text = render_report(prepared, trained, run, version, verdict=verdict)
    queued = add_to_outbox(run, prepared.split, text, card)
    manual = settings().approval == "manual"
    if verdict.promoted and not manual:
        promote(version, prepared.gate_set, verdict.champion)
    fate = "the champion" if verdict.promoted and not manual else "a challenger"
    log.info("register  version %s is %s: %s", version, fate, verdict.reason)
    return Published(run, version, text, queued, card, verdict if manual and verdict.promoted else None)


@flow(name="train-wine-quality", flow_run_name=run_name, on_cancellation=[reject_cancelled])
def train_wine_quality(
    data: str | None = None,
    train_file: Path | None = None,
    validation_file: Path | None = None,
    max_evals: Annotated[int, Field(ge=1, le=500)] = 6,
    seed: Annotated[int | None, Field(ge=0, le=2**32 - 1)] = None,
) -> str:
    """Train, score, register and push the wine model, and return the id of its MLflow run.

    If nothing has changed, that is the run of the identical version.

    Args:
        data: Which dataset: auto, uci, kaggle, sample, or a folder. If empty, WINE_DATA decides.
        train_file: A CSV to train on, instead of `data`. It requires `validation_file`.
        validation_file: A CSV to score on. No row may be in both files.
        max_evals: How many trials the search runs.
        seed: The same seed and data give the same model. If empty, WINE_SEED decides.
    """
    config = settings(data=data, seed=seed)
    assert_measurement(config.slice)
    log.info("bucket    %s", bucket_line(config))
    with one_heartbeat():
        prepared = prepare_data(config.data, train_file, validation_file)
        trained = train_models(prepared, max_evals, config.seed)
        published = publish_model(prepared, trained, config.seed, scheduled_time())
    return conclude(prepared, trained, published)


def conclude(prepared: Prepared, trained: Trained, published: Published) -> str:
    """Push, report, wait for an approval if one is needed, and return the id of the MLflow run."""
    push_and_report(trained, published)
    if published.proposed:
        propose(published.version, str(flow_run.id))
        tag_inputs(published.version, published.inputs)
        reason = wait_for_approval(published.version, published.card)
        promote_approved(published.version, prepared.gate_set, published.proposed.champion, reason)
    return published.run.run_id


def push_and_report(trained: Trained, published: Published) -> None:
    """Push, delete old files and report. If one of the first two fails, the run fails, but nothing is lost."""
    outcome: dict[str, Any] = {"published": published, "keep": settings().keep_runs}
    try:
        outcome["pushed"], outcome["where"] = push()
        outcome["deleted"] = delete_old_files()
    except WineError as error:
        report(trained, published, render("bucket.md.j2", **outcome, error=error))
        raise
    report(trained, published, render("bucket.md.j2", **outcome))
