"""Gradient boosting on more rows than memory holds: XGBoost's external memory, with checkpoints.

The training rows are cached as float32 files, which XGBoost reads a batch at a time and turns into pages of its own on
the disk. It does so in a process of its own, because it ends its process where the disk is full; one that was killed
goes on from its last checkpoint. The result is the pipeline that `models.build` makes, as if `models.fit` had fitted
it on all rows at once, unless it was killed: the rounds after a checkpoint draw rows and columns anew.
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

MODEL_NAMES = [name for name, model in MODELS.items() if model.estimator is xgboost.XGBRegressor]
BATCH = 250_000  # rows that XGBoost reads at once
ROW_BYTES = 80  # of a training row on the disk: 13 numbers of 4 bytes, and XGBoost's pages
CHECKPOINT = 10  # rounds
TRIES = 3  # how often a training may be killed
PLAN, MODEL, LOG = "plan.json", "model.ubj", "training.log"


@dataclass(frozen=True)
class Cache:
    """Training rows on the disk: files of float32 of shape (n rows, 13), and the mean of each column of features.

    The columns of a file are those of `schema.to_matrix` and the quality; `head` is its first rows as a tidy table.
    """

    paths: list[Path]
    means: np.ndarray
    head: pd.DataFrame


class CachedRows(xgboost.DataIter):
    """An iterator over cached rows as XGBoost asks for it; blanks become the mean of their column."""

    def __init__(self, paths: list[Path], means: np.ndarray, pages: Path) -> None:
        super().__init__(cache_prefix=str(pages / "page"), on_host=False)
        self.paths, self.means, self.position = paths, means, 0

    def next(self, input_data: Callable[..., Any]) -> bool:
        """Give XGBoost the next batch, or say that there is none."""
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
        """Begin again."""
        self.position = 0


def write_cache(tables: Iterable[pd.DataFrame], folder: Path, rows: int) -> Cache:
    """Cache tidy tables of `rows` training rows in an empty folder.

    Raise `DataError` if the disk is full, or has not enough space for what the training will write.
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
    """Raise `DataError` if the disk of a folder has fewer bytes free than a training will write."""
    if (free := shutil.disk_usage(folder).free) < size:
        raise DataError(f"{folder}: needs {size / 1e9:.2g} GB, and {free / 1e9:.2g} GB are free. Free some space.")


def joined(tables: Iterable[pd.DataFrame]) -> Iterator[pd.DataFrame]:
    """Yield tables joined to some 250,000 rows each."""
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
    """Return the pipeline of an XGBoost model, fitted on cached rows by another process, and where it was resumed.

    `folder` keeps a checkpoint, of every tenth round. A training that was ended goes on from there; the number is that
    of the last round after which one did, else 0. Raise `DataError` if the disk is full, `EngineError` if the training
    is killed three times.
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
            log.info("fit       goes on after round %d of %d, from a checkpoint", done, plan["rounds"])
        with companion(module(__name__, folder), folder / LOG, {}) as process:
            code = process.wait()
        if code == 0:
            return with_booster(pipeline, folder / MODEL, cache), done
        if code != -signal.SIGKILL:
            raise DataError(f"{folder}: the training failed ({reason(folder / LOG)}). Free some space and run again.")
        log.warning("fit       the training was killed")
    raise EngineError(
        f"the training was killed {TRIES} times. Is there enough memory? Run again: it goes on from there."
    )


def reason(log: Path) -> str:
    """Return the line of a log that says why XGBoost ended."""
    lines = log.read_text(errors="replace").splitlines()
    return next((line for line in lines if "Check failed" in line), last_line(log))


def train(folder: Path) -> None:
    """Train as the plan in a folder says, from the last checkpoint there, and save the model in the folder."""
    plan, pages = json.loads((folder / PLAN).read_text()), folder / "pages"
    shutil.rmtree(pages, ignore_errors=True)
    pages.mkdir()
    rows = CachedRows([Path(path) for path in plan["paths"]], np.array(plan["means"]), pages)
    matrix = xgboost.ExtMemQuantileDMatrix(rows, nthread=plan["params"]["nthread"])
    done, saved = rounds_done(folder), folder / MODEL
    params = plan["params"] | {"random_state": plan["params"]["random_state"] + done}  # else it draws as at the start
    booster = xgboost.Booster(params, [matrix], saved if done else None)
    for number in range(done, plan["rounds"]):
        booster.update(matrix, number)
        if (number + 1) % CHECKPOINT == 0 or number + 1 == plan["rounds"]:
            with atomic_write(saved) as part:
                booster.save_model(part)


def rounds_done(folder: Path) -> int:
    """Return how many rounds the model in a folder has, 0 if there is none."""
    path = folder / MODEL
    return xgboost.Booster(model_file=path).num_boosted_rounds() if path.exists() else 0


def with_booster(pipeline: Pipeline, path: Path, cache: Cache) -> Pipeline:
    """Return a pipeline with the model of a file, which was trained on cached rows with their means for blanks."""
    preprocess: Any = pipeline["preprocess"]
    model: Any = pipeline["model"]
    preprocess.fit(cache.head[FEATURES])
    preprocess.named_transformers_["measurements"].statistics_ = cache.means[1:]
    model.load_model(path)
    return pipeline


if __name__ == "__main__":
    train(Path(sys.argv[1]))
