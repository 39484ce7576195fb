"""How much faster do two workers score many files? `python -m benchmarks.batches`; it needs a champion of `make run`.

The files contain rows drawn from the sample, in a separate bucket on this machine. One process and two processes score
them in turn, each time into an empty database. The ONNX graph alone is timed too, as an upper bound on speed.
"""

import os
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
from pydantic import SecretStr

from benchmarks.machine import memory_gb, spread, write_results
from orchestration.bucket import bucket_at
from wine_quality import batches, predictions, registry, sources, tracking
from wine_quality.config import Settings, settings
from wine_quality.engines import InProcess, open_engine
from wine_quality.errors import RegistryError
from wine_quality.local_s3 import local_s3
from wine_quality.plain_bucket import PlainBucket
from wine_quality.schema import FEATURES, to_matrix
from wine_quality.scoring import PART, Scorer, load_scorer
from wine_quality.storage import Bucket

FILES, ROWS = 80, 12_500  # rows of each file
REPEATS = 2
AROUND = 100_000  # rows without the graph
SEED = 42


def draw(rows: int, seed: int) -> pd.DataFrame:
    """Return rows drawn from the sample."""
    table = sources.sample("a benchmark").table[FEATURES]
    return table.iloc[np.random.default_rng(seed).integers(0, len(table), rows)].reset_index(drop=True)


def put_files(bucket: Bucket) -> None:
    """Put the files under `incoming/`."""
    for n in range(FILES):
        bucket.write_path(f"{batches.INCOMING}part-{n:02}.parquet", draw(ROWS, SEED + n).to_parquet(index=False))


@contextmanager
def peak_memory() -> Iterator[list[float]]:
    """Yield a list whose last item is the peak memory of this process and its children so far, in GB."""
    peak, done = [0.0], threading.Event()

    def look() -> None:
        while not done.wait(2):  # reading the memory of a process takes time and pauses it
            with suppress(psutil.Error):  # a worker may exit during the reading
                peak.append(max(peak[-1], memory_gb(os.getpid())))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield peak
    finally:
        done.set()
        thread.join()


def score_all(bucket: Bucket, config: Settings, version: str) -> tuple[float, float]:
    """Score all files again; return the seconds, including the start of the workers, and the peak memory in GB."""
    for entry in bucket.list_objects(batches.SCORED):
        bucket.credentials.get_s3_client().delete_object(Bucket=bucket.bucket_name, Key=entry["Key"])
    Path(config.predictions_uri.removeprefix("sqlite:///")).unlink(missing_ok=True)
    entries = batches.list_incoming(bucket)
    with peak_memory() as peak:
        started = time.perf_counter()
        with open_engine(config) as engine:
            place = batches.workplace(config, version, PlainBucket.like(bucket))
            done = list(batches.spread(engine, entries, batches.process_on_worker, place))
        seconds = time.perf_counter() - started
    if isinstance(engine, InProcess):
        shutil.rmtree(config.local / "batch", ignore_errors=True)
    assert sum(outcome.rows for _, outcome in done) == predictions.count(config.predictions_uri) == FILES * ROWS
    return seconds, peak[-1]


def graph_alone(scorer: Scorer) -> float:
    """Return how many rows per second the ONNX graph scores by itself."""
    rows = to_matrix(draw(2 * ROWS, SEED))
    started = time.perf_counter()
    for start in range(0, len(rows), PART):
        scorer.predict(rows[start : start + PART])
    return len(rows) / (time.perf_counter() - started)


def around_the_graph(folder: Path) -> float:
    """Return how many rows per second everything but the graph handles: reading, checking, writing, storing."""
    source, lines = folder / "source.parquet", folder / "lines"
    draw(AROUND, SEED).to_parquet(source, index=False)

    class NoModel:
        version = "1"

        def score_with_interval(self, rows: np.ndarray) -> np.ndarray:
            return np.round(rows[:, [11, 10, 9]] / 2, 6)

    scorer: Any = NoModel()
    started = time.perf_counter()
    with lines.open("wb") as file:
        batches.score_file(source, folder / "scored", batches.PredictionWriter(scorer, datetime.now(UTC), "x", file))
    predictions.insert_file(f"sqlite:///{folder}/around-{time.time_ns()}.db", lines)
    return AROUND / (time.perf_counter() - started)


def main() -> None:
    config = settings()
    with tracking.store(config) as store:
        champion = registry.champion(store)
    if champion is None:
        raise RegistryError("there is no champion to score with. Train one first: make run.")
    scorer, seconds, memory = load_scorer(config, champion), {1: [], 2: []}, {1: [], 2: []}
    with tempfile.TemporaryDirectory() as aside:
        folder = Path(aside)
        there = config.model_copy(update={"bucket": "benchmark-batches"})
        with local_s3(there) as server:
            bucket: Any = bucket_at(server, there)
            put_files(bucket)
            graph, around = [], []
            for _ in range(REPEATS):
                graph.append(graph_alone(scorer))
                around.append(around_the_graph(folder))
                for workers in seconds:
                    own = {"workers": workers, "predictions": SecretStr(f"sqlite:///{folder}/predictions.db")}
                    took, peak = score_all(bucket, there.model_copy(update=own), str(champion.version))
                    seconds[workers].append(took)
                    memory[workers].append(peak)
        shutil.rmtree(there.local / "s3" / there.bucket)
    ratios = [one / two for one, two in zip(seconds[1], seconds[2], strict=True)]
    results = {
        "files": FILES,
        "rows": FILES * ROWS,
        "engine": scorer.engine,
        "graph_alone_rows_per_second": spread(graph, 0),
        "around_the_graph_rows_per_second": spread(around, 0),
        **{
            f"workers_{workers}": {
                "seconds": spread(seconds[workers]),
                "rows_per_second": round(FILES * ROWS / statistics.median(seconds[workers])),
                "peak_memory_gb": round(max(memory[workers]), 2),
            }
            for workers in seconds
        },
        "two_workers_against_one": spread(ratios),
    }
    write_results("batches", results)


if __name__ == "__main__":
    main()
