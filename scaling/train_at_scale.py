"""Train on more rows than memory holds, from Parquet parts to a version in the registry, behind the same gate.

The parts are checked, and their duplicates, gate set and leakage found, with a byte of memory for each row. What the
rest needs is estimated: the training set is loaded if it fits into `WINE_MEMORY`, else XGBoost reads it from the disk.
From there on the flow is that of `make run`, on samples: some training rows that are left out of the fit give the
prediction intervals, some gate rows the comparison with the champion. Both samples are the rows with the lowest keys,
so they follow from the data alone.

Run it with `make train-at-scale ROWS_AT=folder`.
"""

import logging
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from prefect import flow, task
from sklearn.pipeline import Pipeline

from orchestration.approval import reject_cancelled
from orchestration.policies import RETRY_TRANSIENT, checksum, one_heartbeat, run_name, scheduled_time
from orchestration.report import Prepared, Trained
from orchestration.train import conclude, evaluate, fit_intervals, publish_model, rank
from wine_quality import chunked, external_memory, splits
from wine_quality.chunked import GATE, ROLE, SAMPLED, TRAIN, Rows
from wine_quality.config import Settings, settings
from wine_quality.engines import open_engine
from wine_quality.errors import LeakError, SettingsError
from wine_quality.files import exclusive_lock
from wine_quality.models import BLEND, MEMBERS, MODELS, build, cross_predict, fit, predict
from wine_quality.parts import list_parts
from wine_quality.slices import assert_measurement
from wine_quality.sources import Dataset
from wine_quality.tracking import Whole
from wine_quality.tuning import Candidate

log = logging.getLogger("wine_quality.train")

SAMPLE, WHOLE = 20_000, 100_000  # rows of each sample; a training set up to the latter is its own sample
MODEL_FOLDERS = "model-*"
START_BYTES = 700_000_000  # of memory, whatever the rows: the flow, its libraries, and the samples
TABLE_BYTES, TREE_BYTES, CACHED_BYTES = 900, 150, 50  # a row in tables, in each tree of a forest, in external memory
IN_MEMORY, EXTERNAL = "in memory", "external memory"


@contextmanager
def work_folder(config: Settings) -> Iterator[Path]:
    """Yield the folder of this training, which holds the checkpoint of one that was ended; it goes after a good end."""
    folder = config.local / "at-scale"
    with exclusive_lock(config.local / "at-scale.lock"):
        folder.mkdir(exist_ok=True)
        try:
            yield folder
        finally:
            remove(path for path in folder.iterdir() if not path.match(MODEL_FOLDERS))
        shutil.rmtree(folder)


def remove(folders: Iterable[Path]) -> None:
    """Remove folders with all that they hold."""
    for folder in folders:
        shutil.rmtree(folder)


@task(name="check the parts", task_run_name="check the parts", **RETRY_TRANSIENT)
def check_parts(data: str, folder: Path) -> Rows:
    """Check each part, and find duplicates, the training set and the gate set."""
    parts, keys = list_parts(data), folder / "keys"
    keys.mkdir(exist_ok=True)
    with open_engine(settings()) as engine:
        log.info("check     %d part(s) of %s, %d at a time", len(parts), data, engine.workers)
        return chunked.split_parts(parts, keys, engine, sample=SAMPLE)


@task(name="sample", task_run_name="sample", **RETRY_TRANSIENT)
def sample(rows: Rows, data: str) -> Prepared:
    """Read the samples of both sets, and assert that no sampled row of the gate set is in the training set."""
    sampled = rows.table(SAMPLED, SAMPLED)
    of_gate = splits.in_gate_set(splits.key_numbers(sampled.index))
    gate_set = sampled.loc[of_gate]
    train = rows.table(TRAIN) if rows.count(TRAIN) <= WHOLE else sampled.loc[~of_gate]
    if (both := chunked.leaked(rows, gate_set)).any():
        raise LeakError(
            f"{data}: {both.sum():,} of {len(both):,} gate rows are in the training set. Report this error."
        )
    total, distinct = len(rows.roles), rows.count(TRAIN) + rows.count(GATE)
    notes = [
        f"{total:,} rows, of which {total - distinct:,} are duplicates: {distinct:,} distinct rows",
        f"{rows.count(TRAIN):,} rows in the training set, {rows.count(GATE):,} in the gate set, none in both "
        f"(chi-squared test of type and quality: p = {chunked.balance(rows.strata):.2f})",
        f"all that follows is measured on {len(train):,} and {len(gate_set):,} of these, the rows with the lowest keys",
    ]
    for note in notes:
        log.info("check     %s", note)
    source = "sample" if rows.synthetic else "folder"
    dataset = Dataset(
        pd.concat([train, gate_set], ignore_index=True), source, f"{len(rows.parts)} Parquet part(s) in {data}"
    )
    return Prepared(dataset, notes, train, gate_set)


def memory_needed(name: str, rows: int) -> int:
    """Return how many bytes it takes to load and fit on some distinct rows."""
    return START_BYTES + rows * (TABLE_BYTES + model_bytes(name, rows))


def model_bytes(name: str, rows: int) -> int:
    """Return the bytes that a model holds of each of its rows."""
    if name == BLEND:
        return sum(model_bytes(member, rows) for member in MEMBERS)
    model = MODELS[name]
    if model.scaler:  # a kernel: each row with every other
        return 8 * rows
    return TREE_BYTES * model.params.get("n_estimators", 100) if "trees" in name or "forest" in name else 0


def choose_way(name: str, rows: int, memory: int) -> tuple[str, str]:
    """Return how a model is fitted on some distinct rows, and why; raise `SettingsError` if memory is too small."""
    needed, cached = memory_needed(name, rows), START_BYTES + rows * CACHED_BYTES
    sizes = f"{rows:,} rows take some {needed / 1e9:.1f} GB in memory, and WINE_MEMORY is {memory / 1e9:.1f} GB"
    if needed <= memory:
        return IN_MEMORY, sizes
    if name not in external_memory.MODEL_NAMES:
        fitting = " or ".join(external_memory.MODEL_NAMES)
        raise SettingsError(f"{name} must hold all rows: {sizes}. Choose {fitting}, give fewer rows or more memory.")
    if cached > memory:
        raise SettingsError(f"{sizes}; external memory takes some {cached / 1e9:.1f} GB. Give more memory.")
    return EXTERNAL, f"{sizes}; external memory takes some {cached / 1e9:.1f} GB"


@task(name="fit", task_run_name="fit {name}, {way}", **RETRY_TRANSIENT)
def fit_model(
    rows: Rows, train: pd.DataFrame, name: str, seed: int, way: str, folder: Path
) -> tuple[Pipeline, np.ndarray, int]:
    """Fit a model; return it, its scores of the sample of the training set, and after which round it was resumed.

    The sample is left out of the fit, unless it is all of the training set: then it is scored by cross-validation.
    """
    if len(train) == rows.count(TRAIN):
        predicted = cross_predict(build(name, seed), train, splits.folds(train, seed))
        return fit(build(name, seed), train), predicted, 0
    if way == IN_MEMORY:
        pipeline, resumed = fit(build(name, seed), rows.table(TRAIN, ROLE | SAMPLED)), 0
    else:
        pipeline, resumed = fit_from_disk(rows, name, seed, folder)
    return pipeline, predict(pipeline, train), resumed


def fit_from_disk(rows: Rows, name: str, seed: int, folder: Path) -> tuple[Pipeline, int]:
    """Cache the training rows without the sample, and fit on them, from the checkpoint of these if there is one."""
    model, cached = folder / f"model-{checksum(rows.checksum, name, seed)[:16]}", folder / "rows"
    remove(path for path in [*folder.glob(MODEL_FOLDERS), *folder.glob(cached.name)] if path != model)
    cached.mkdir()
    cache = external_memory.write_cache(rows.batches(TRAIN, ROLE | SAMPLED), cached, rows.count(TRAIN, ROLE | SAMPLED))
    log.info("fit       the rows are cached; XGBoost trains on %d thread(s)", settings().workers)
    return external_memory.fit_cached(name, seed, cache, model, settings().workers)


def describe(rows: Rows, train: pd.DataFrame, way: str, why: str, resumed: int) -> Whole:
    """Return what MLflow gets of a dataset that is too large to log."""
    parts = [
        {"part": part, "rows": one.rows, "sha256": one.checksum}
        for part, one in zip(rows.parts, rows.scans, strict=True)
    ]
    manifest = {"sha256": rows.checksum, "rows": len(rows.roles), "parts": parts}
    tags = {"way": f"{way}: {why}", "resumed_after_round": str(resumed)}
    return Whole(rows.count(TRAIN), rows.checksum, manifest, len(train) < rows.count(TRAIN), tags)


@flow(name="train-at-scale", flow_run_name=run_name, on_cancellation=[reject_cancelled])
def train_at_scale(data: str | None = None, model: str = "xgboost_tuned", seed: int | None = None) -> str:
    """Train a model on Parquet parts, register it behind the gate, and return the id of its MLflow run.

    Args:
        data: The folder of the parts, or s3://bucket/prefix. Left empty, WINE_DATA says.
        model: The name of a model. All but those of XGBoost must hold all rows.
        seed: The same seed and data give the same model, unless its training was resumed.
    """
    config = settings(data=data, seed=seed)
    assert_measurement(config.slice)
    if model not in (*MODELS, BLEND):
        raise SettingsError(f"model={model!r}: no such model. Choose one of {', '.join(MODELS)} or {BLEND}.")
    with one_heartbeat(), work_folder(config) as folder:
        rows = check_parts(config.data, folder)
        prepared = sample(rows, config.data)
        way, why = choose_way(model, rows.count(TRAIN) + rows.count(GATE), config.memory)
        log.info("way       %s: %s", way, why)
        pipeline, predicted, resumed = fit_model(rows, prepared.train, model, config.seed, way, folder)
        prepared = replace(prepared, whole=describe(rows, prepared.train, way, why, resumed))
        trained = evaluate_model(prepared, Candidate(model, {}), pipeline, predicted, config.seed)
        published = publish_model(prepared, trained, config.seed, scheduled_time())
    return conclude(prepared, trained, published)


def evaluate_model(
    prepared: Prepared, choice: Candidate, pipeline: Pipeline, predicted: np.ndarray, seed: int
) -> Trained:
    """Fit the intervals on the sample of the training set, and evaluate on that of the gate set."""
    leaderboard = rank(prepared.train, pd.DataFrame({choice.name: predicted}))
    interval = fit_intervals(prepared.train, predicted, seed)
    return Trained(leaderboard, choice, pipeline, interval, evaluate(pipeline, interval, prepared.gate_set, seed))
