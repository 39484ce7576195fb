"""Train on more rows than fit into memory: from Parquet parts to a registered version, through the same gate.

The flow checks the parts, removes duplicates, splits the rows and looks for leakage. It holds one byte of memory per
row, and 19 bytes more for each row with blanks. It then estimates how much memory the training needs. If the distinct
rows fit into `WINE_MEMORY`, they're loaded; otherwise XGBoost reads them from disk. The rest is the end of `make run`:
above 100,000 rows, on a sample of each set. The prediction intervals then come from training rows that the fit leaves
out, and the comparison with the champion uses a sample of the gate rows. The samples are the rows with the lowest keys,
so they depend on the data alone.

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

SAMPLE, WHOLE = 20_000, 100_000  # rows of each sample; up to WHOLE distinct rows, no samples are drawn
MODEL_FOLDERS = "model-*"
START_BYTES = 700_000_000  # of memory for any dataset: the flow, its libraries, and the samples
TABLE_BYTES, TREE_BYTES, CACHED_BYTES = 900, 150, 50  # per row: in tables, in each tree of a forest, in external memory


@contextmanager
def work_folder(config: Settings) -> Iterator[Path]:
    """Yield the folder of this training; after a failure, its checkpoint stays there, else the folder is removed."""
    folder = config.local / "at-scale"
    with exclusive_lock(config.local / "at-scale.lock"):
        folder.mkdir(exist_ok=True)
        try:
            yield folder
        finally:
            remove(path for path in folder.iterdir() if not path.match(MODEL_FOLDERS))
        shutil.rmtree(folder)


def remove(folders: Iterable[Path]) -> None:
    """Remove folders and their contents."""
    for folder in folders:
        shutil.rmtree(folder)


@task(name="check the parts", task_run_name="check the parts", **RETRY_TRANSIENT)
def check_parts(data: str, folder: Path) -> Rows:
    """Check each part, remove duplicates, and split the rows into a training set and a gate set."""
    parts, keys = list_parts(data), folder / "keys"
    keys.mkdir(exist_ok=True)
    with open_engine(settings()) as engine:
        log.info("check     %d part(s) in %s, %d at a time", len(parts), data, engine.workers)
        return chunked.split_parts(parts, keys, engine, sample=SAMPLE)


@task(name="sample", task_run_name="sample", **RETRY_TRANSIENT)
def sample(rows: Rows, data: str) -> Prepared:
    """Read a sample of each set, or all of it, and assert that none of these gate rows is trained on."""
    total, distinct = len(rows.roles), rows.count(TRAIN) + rows.count(GATE)
    if distinct <= WHOLE:
        which, sampled = "all of them", pd.concat(map(rows.table, (TRAIN, GATE)))
    else:
        which, sampled = "the rows with the lowest keys", rows.table(SAMPLED, SAMPLED)
    of_gate = splits.in_gate_set(splits.key_numbers(sampled.index))
    train, gate_set = sampled.loc[~of_gate], sampled.loc[of_gate]
    if (both := chunked.leaked(rows, gate_set)).any():
        raise LeakError(
            f"{data}: {both.sum():,} of {len(both):,} gate rows are in the training set. Report this error."
        )
    notes = [
        f"{total:,} rows, of which {total - distinct:,} are duplicates: {distinct:,} distinct rows",
        f"{rows.count(TRAIN):,} rows in the training set, {rows.count(GATE):,} in the gate set, none in both "
        f"(chi-squared test of type and quality: p = {splits.balance(rows.strata):.2f})",
        f"evaluated on {which}: {len(train):,} and {len(gate_set):,}",
    ]
    for note in notes:
        log.info("check     %s", note)
    source = "sample" if rows.synthetic else "folder"
    dataset = Dataset(
        pd.concat([train, gate_set], ignore_index=True), source, f"{len(rows.parts)} Parquet part(s) in {data}"
    )
    return Prepared(dataset, notes, train, gate_set)


def memory_needed(name: str, rows: int) -> int:
    """Return how many bytes of memory it takes to load some distinct rows and fit a model to them."""
    return START_BYTES + rows * (TABLE_BYTES + model_bytes(name, rows))


def model_bytes(name: str, rows: int) -> int:
    """Return how many bytes of memory a model needs for each row."""
    if name == BLEND:
        return sum(model_bytes(member, rows) for member in MEMBERS)
    model = MODELS[name]
    if model.scaler:  # a kernel matrix: rows by rows
        return 8 * rows
    return TREE_BYTES * model.params.get("n_estimators", 100) if "trees" in name or "forest" in name else 0


def choose_mode(name: str, rows: int, memory: int) -> tuple[str, str]:
    """Return the training mode for some distinct rows, and the reason; raise `SettingsError` if memory is too small."""
    needed, cached = memory_needed(name, rows), START_BYTES + rows * CACHED_BYTES
    sizes = f"{rows:,} rows need about {needed / 1e9:.2f} GB in memory, and WINE_MEMORY is {memory / 1e9:.2f} GB"
    if needed <= memory:
        return external_memory.IN_MEMORY, sizes
    if name not in external_memory.MODEL_NAMES:
        fitting = " or ".join(external_memory.MODEL_NAMES)
        raise SettingsError(f"{name} holds all rows in memory: {sizes}. Choose {fitting}, or raise WINE_MEMORY.")
    if rows <= WHOLE:
        raise SettingsError(f"{sizes}. Raise WINE_MEMORY: up to {WHOLE:,} rows are trained in memory.")
    if cached > memory:
        raise SettingsError(f"{sizes}; external memory needs about {cached / 1e9:.2f} GB. Raise WINE_MEMORY.")
    return external_memory.EXTERNAL_MEMORY, f"{sizes}; external memory needs about {cached / 1e9:.2f} GB"


@task(name="fit", task_run_name="fit {name}, {mode}", **RETRY_TRANSIENT)
def fit_model(
    rows: Rows, train: pd.DataFrame, name: str, seed: int, mode: str, folder: Path
) -> tuple[Pipeline, np.ndarray, int]:
    """Fit a model; return it, its predictions for the training sample, and the round that it resumed after, or 0.

    The sample is left out of the fit. If it is the whole training set, the predictions come from cross-validation.
    """
    if len(train) == rows.count(TRAIN):
        predicted = cross_predict(build(name, seed), train, splits.folds(train, seed))
        return fit(build(name, seed), train), predicted, 0
    if mode == external_memory.IN_MEMORY:
        pipeline, resumed = fit(build(name, seed), rows.table(TRAIN, ROLE | SAMPLED)), 0
    else:
        pipeline, resumed = fit_from_disk(rows, name, seed, folder)
    return pipeline, predict(pipeline, train), resumed


def fit_from_disk(rows: Rows, name: str, seed: int, folder: Path) -> tuple[Pipeline, int]:
    """Cache the training rows without the sample, and fit a model to them, from its last checkpoint if there is one."""
    model, cached = folder / f"model-{checksum(rows.checksum, name, seed)[:16]}", folder / "rows"
    remove(path for path in [*folder.glob(MODEL_FOLDERS), *folder.glob(cached.name)] if path != model)
    cached.mkdir()
    cache = external_memory.write_cache(rows.batches(TRAIN, ROLE | SAMPLED), cached, rows.count(TRAIN, ROLE | SAMPLED))
    log.info("fit       the rows are cached; XGBoost trains with %d thread(s)", settings().workers)
    return external_memory.fit_cached(name, seed, cache, model, settings().workers)


def describe(rows: Rows, train: pd.DataFrame, mode: str, why: str, resumed: int) -> Whole:
    """Return what is logged to MLflow for a dataset that is too large to log itself."""
    parts = [
        {"part": part, "rows": one.rows, "sha256": one.checksum}
        for part, one in zip(rows.parts, rows.scans, strict=True)
    ]
    manifest = {"sha256": rows.checksum, "rows": len(rows.roles), "parts": parts}
    tags = {external_memory.MODE: f"{mode}: {why}", "resumed_after_round": str(resumed)}
    return Whole(rows.count(TRAIN), rows.checksum, mode, manifest, len(train) < rows.count(TRAIN), tags)


@flow(name="train-at-scale", flow_run_name=run_name, on_cancellation=[reject_cancelled])
def train_at_scale(data: str | None = None, model: str = "xgboost_tuned", seed: int | None = None) -> str:
    """Train a model on Parquet parts, register it, compare it with the champion, and return its MLflow run id.

    Args:
        data: The folder of the parts, or s3://bucket/prefix. The default is WINE_DATA.
        model: The name of a model. All models but XGBoost's need all rows in memory.
        seed: The same seed and data give the same model, unless training was resumed from a checkpoint.
    """
    config = settings(data=data, seed=seed)
    assert_measurement(config.slice)
    if model not in (*MODELS, BLEND):
        raise SettingsError(f"model={model!r}: no such model. Choose one of {', '.join(MODELS)} or {BLEND}.")
    with one_heartbeat(), work_folder(config) as folder:
        rows = check_parts(config.data, folder)
        prepared = sample(rows, config.data)
        mode, why = choose_mode(model, rows.count(TRAIN) + rows.count(GATE), config.memory)
        log.info("mode      %s: %s", mode, why)
        pipeline, predicted, resumed = fit_model(rows, prepared.train, model, config.seed, mode, folder)
        prepared = replace(prepared, whole=describe(rows, prepared.train, mode, why, resumed))
        trained = evaluate_model(prepared, Candidate(model, {}), pipeline, predicted, config.seed)
        published = publish_model(prepared, trained, config.seed, scheduled_time())
    return conclude(prepared, trained, published)


def evaluate_model(
    prepared: Prepared, choice: Candidate, pipeline: Pipeline, predicted: np.ndarray, seed: int
) -> Trained:
    """Fit the intervals to the training sample, and evaluate on the gate sample."""
    leaderboard = rank(prepared.train, pd.DataFrame({choice.name: predicted}))
    interval = fit_intervals(prepared.train, predicted, seed)
    return Trained(leaderboard, choice, pipeline, interval, evaluate(pipeline, interval, prepared.gate_set, seed))
