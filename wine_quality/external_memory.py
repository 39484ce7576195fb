"""Train XGBoost on more rows than fit into memory: its external memory, with checkpoints.

The training rows are cached as float32 files. XGBoost reads them batch by batch and writes pages of its own to disk.
Training runs in a separate process, because XGBoost ends its process when the disk is full. A training process that was
killed resumes from its last checkpoint. The result is a pipeline of `models.build`, as if `models.fit` had fitted it to
all rows at once. A resumed one differs, because the rounds after a checkpoint draw rows and columns afresh.
"""

import json
import logging
import shutil
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xgboost
from sklearn.pipeline import Pipeline

from wine_quality.errors import DataError, EngineError
from wine_quality.files import atomic_write, translate_disk_errors
from wine_quality.models import MODELS, build
from wine_quality.processes import companion, last_line, module
from wine_quality.schema import FEATURES, TARGET, to_matrix

log = logging.getLogger("wine_quality.train")

MODE = "training_mode"  # a tag of the MLflow run, which begins with one of the next two
IN_MEMORY, EXTERNAL_MEMORY = "in memory", "external memory"

MODEL_NAMES = [name for name, model in MODELS.items() if model.estimator is xgboost.XGBRegressor]
BATCH = 250_000  # rows that XGBoost reads at a time
ROW_BYTES = 80  # of a training row on disk: 13 numbers of 4 bytes, and XGBoost's pages
CHECKPOINT = 10  # rounds between two checkpoints
TRIES = 3  # times that the training process may be killed
PLAN, MODEL, LOG = "plan.json", "model.ubj", "training.log"


@dataclass(frozen=True)
class Cache:
    """Training rows on disk: float32 files of shape (n rows, 13), and the mean of each feature.

    The columns of a file are those of `schema.to_matrix`, then the target. `head` holds the first rows as a tidy table.
    """

    paths: list[Path]
    means: np.ndarray
    head: pd.DataFrame


class CachedRows(xgboost.DataIter):
    """The iterator over cached rows that XGBoost asks for; blanks become the mean of their column."""

    def __init__(self, paths: list[Path], means: np.ndarray, pages: Path) -> None:
        super().__init__(cache_prefix=str(pages / "page"), on_host=False)
        self.paths, self.means, self.position = paths, means, 0

    def next(self, input_data: Callable[..., Any]) -> bool:
        """Pass the next batch to XGBoost; return whether there was one."""
        if self.position == len(self.paths):
            return False
        rows = np.load(self.paths[self.position])
        features = rows[:, :-1]
        blank = np.isnan(features)
        features[blank] = np.broadcast_to(self.means, features.shape)[blank]
        input_data(data=features, label=rows[:, -1])
        self.position += 1
        return True

    def reset(self) -> None:
        """Start again from the first batch."""
        self.position = 0


def write_cache(tables: Iterable[pd.DataFrame], folder: Path, rows: int) -> Cache:
    """Cache tidy tables of `rows` training rows in an empty folder.

    Raise `DataError` if the disk is full, or has too little space for what the training will write.
    """
    sums, counts, paths, head = [], [], [], []
    with translate_disk_errors(folder):
        assert_space(folder, rows * ROW_BYTES)
        for table in joined(tables):
            matrix = to_matrix(table)
            sums.append(np.nansum(matrix, axis=0))
            counts.append(np.count_nonzero(~np.isnan(matrix), axis=0))
            paths.append(folder / f"rows-{len(paths):05}.npy")
            np.save(paths[-1], np.column_stack([matrix, table[TARGET]]).astype("float32"))
            head = head or [table.head()]
    return Cache(paths, np.sum(sums, axis=0) / np.maximum(np.sum(counts, axis=0), 1), head[0])


def assert_space(folder: Path, size: int) -> None:
    """Raise `DataError` if the disk has less space than the training will need, in bytes."""
    if (free := shutil.disk_usage(folder).free) < size:
        raise DataError(f"{folder}: needs {size / 1e9:.2g} GB, but only {free / 1e9:.2g} GB are free. Free some space.")


def joined(tables: Iterable[pd.DataFrame]) -> Iterator[pd.DataFrame]:
    """Yield the tables joined into batches of about 250,000 rows."""
    waiting, size = [], 0
    for table in tables:
        waiting.append(table)
        size += len(table)
        if size >= BATCH:
            yield pd.concat(waiting)
            waiting, size = [], 0
    if size:
        yield pd.concat(waiting)


def fit_cached(name: str, seed: int, cache: Cache, folder: Path, threads: int = 1) -> tuple[Pipeline, int]:
    """Fit an XGBoost model to cached rows in another process; return its pipeline and the round it resumed after.

    `folder` holds a checkpoint of every tenth round. If an earlier training left one there, this one resumes from it
    and returns its round, else 0. Raise `DataError` if the disk is full, `EngineError` if the training process is
    killed three times.
    """
    pipeline = build(name, seed)
    model: Any = pipeline["model"]
    plan = {
        "params": model.get_xgb_params() | {"nthread": threads},
        "rounds": model.get_num_boosting_rounds(),
        "paths": [str(path.resolve()) for path in cache.paths],
        "means": cache.means.tolist(),
    }
    with atomic_write(folder / PLAN) as part:
        part.write_text(json.dumps(plan))
    for _ in range(TRIES):
        if done := rounds_done(folder):
            log.info("fit       resumes from the checkpoint of round %d of %d", done, plan["rounds"])
        with companion(module(__name__, folder), folder / LOG, {}) as process:
            code = process.wait()
        if code == 0:
            return with_booster(pipeline, folder / MODEL, cache), done
        if code != -signal.SIGKILL:
            why = f"exit code {code}: {reason(folder / LOG)}"
            raise DataError(
                f"{folder}: the training failed ({why}). Free some space if the disk is full, and run again."
            )
        log.warning("fit       the training process was killed")
    raise EngineError(f"the training process was killed {TRIES} times. Is there enough memory? Run again to resume.")


def reason(log: Path) -> str:
    """Return the line of the log that says why XGBoost failed."""
    lines = log.read_text(errors="replace").splitlines()
    return next((line for line in lines if "Check failed" in line), last_line(log))


def train(folder: Path) -> None:
    """Train by the plan in a folder, from its last checkpoint if there is one, and save the model there."""
    plan, pages = json.loads((folder / PLAN).read_text()), folder / "pages"
    shutil.rmtree(pages, ignore_errors=True)
    pages.mkdir()
    rows = CachedRows([Path(path) for path in plan["paths"]], np.array(plan["means"]), pages)
    matrix = xgboost.ExtMemQuantileDMatrix(rows, nthread=plan["params"]["nthread"])
    done, saved = rounds_done(folder), folder / MODEL
    params = plan["params"] | {"random_state": plan["params"]["random_state"] + done}  # else the first draws again
    booster = xgboost.Booster(params, [matrix], saved if done else None)
    for number in range(done, plan["rounds"]):
        booster.update(matrix, number)
        if (number + 1) % CHECKPOINT == 0 or number + 1 == plan["rounds"]:
            with atomic_write(saved) as part:
                booster.save_model(part)


def rounds_done(folder: Path) -> int:
    """Return how many rounds the model in a folder has; 0 if there is none."""
    path = folder / MODEL
    return xgboost.Booster(model_file=path).num_boosted_rounds() if path.exists() else 0


def with_booster(pipeline: Pipeline, path: Path, cache: Cache) -> Pipeline:
    """Return the pipeline with the model from a file, and the means of the cached rows as imputed values."""
    preprocess: Any = pipeline["preprocess"]
    model: Any = pipeline["model"]
    preprocess.fit(cache.head[FEATURES])
    preprocess.named_transformers_["measurements"].statistics_ = cache.means[1:]
    model.load_model(path)
    return pipeline


if __name__ == "__main__":
    train(Path(sys.argv[1]))
