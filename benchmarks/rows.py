"""Measure time and memory for many rows: `python -m benchmarks.rows` with `WINE_DATA` set. It takes half an hour.

First deduplication, split and leak check: on parts with one and with two processes, and in memory. Then 40 rounds of
XGBoost, in memory and in external memory. Each measurement runs in a separate process; its memory includes children.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import xgboost

from benchmarks.machine import memory_gb, write_results
from scaling.make_rows import write_rows
from wine_quality import chunked, splits
from wine_quality.config import settings
from wine_quality.engines import open_engine
from wine_quality.external_memory import CachedRows, write_cache
from wine_quality.models import build
from wine_quality.parts import list_parts, read_batches
from wine_quality.schema import TARGET, to_matrix
from wine_quality.sources import load_dataset

SIZES, IN_MEMORY = (10**4, 10**5, 10**6, 10**7), 10**6  # above this, the tables take too much memory
LARGEST = 10**8  # for two processes and the whole flow, if `make rows` wrote them next to the others
ROUNDS, THREADS = 40, 2


def over_parts(folder: str, workers: str) -> dict[str, Any]:
    begin = time.perf_counter()
    with open_engine(settings(workers=int(workers))) as engine, tempfile.TemporaryDirectory() as keys:
        rows = chunked.split_parts(list_parts(folder), Path(keys), engine)
        head = next(rows.batches(chunked.GATE))
        both = chunked.leaked(rows, head)
    seconds = time.perf_counter() - begin
    return {
        "seconds": seconds,
        "train": rows.count(chunked.TRAIN),
        "gate": rows.count(chunked.GATE),
        "leaked": both.sum(),
    }


def in_memory(folder: str) -> dict[str, Any]:
    begin = time.perf_counter()
    table = pd.concat((batch for part in list_parts(folder) for batch in read_batches(part)), ignore_index=True)
    train, gate_set = splits.train_gate_split(splits.distinct_rows(table))
    both = splits.leaked(train, gate_set)
    seconds = time.perf_counter() - begin
    return {"seconds": seconds, "train": len(train), "gate": len(gate_set), "leaked": both.sum()}


def train(folder: str, way: str) -> dict[str, Any]:
    """Train on all parts but the last, and compute the RMSE on that one."""
    *parts, last = list_parts(folder)
    model: Any = build("xgboost_tuned", 42)["model"]
    params = model.get_xgb_params() | {"nthread": THREADS}
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as aside:
        matrix = MATRICES[way](parts, Path(aside))
        ready = time.perf_counter()
        booster = xgboost.train(params, matrix, ROUNDS)
        end = time.perf_counter()
    rows = pd.concat(read_batches(last))
    errors = booster.predict(xgboost.DMatrix(to_matrix(rows))) - rows[TARGET]
    rmse = float(np.sqrt((errors**2).mean()))
    return {"seconds": end - begin, "reading_seconds": ready - begin, "rows": matrix.num_row(), "rmse": rmse}


def from_memory(parts: list[str], _: Path) -> xgboost.DMatrix:
    """Return the rows as a matrix in memory; blanks become the mean of their column, as in external memory."""
    tables = [np.column_stack([to_matrix(rows), rows[TARGET]]).astype("float32") for rows in batches(parts)]
    whole = np.concatenate(tables)
    del tables
    for column in whole.T:
        column[np.isnan(column)] = np.nanmean(column, dtype="float64")
    return xgboost.QuantileDMatrix(whole[:, :-1], whole[:, -1], nthread=THREADS)


def from_disk(parts: list[str], folder: Path) -> xgboost.DMatrix:
    cache = write_cache(batches(parts), folder, 0)
    return xgboost.ExtMemQuantileDMatrix(CachedRows(cache.paths, cache.means, folder), nthread=THREADS)


def whole_flow(folder: str) -> dict[str, Any]:
    """Run the whole flow, from parts to a registered version, within `WINE_MEMORY`."""
    command = [sys.executable, "-m", "orchestration.run", "scaling.train_at_scale:train_at_scale"]
    begin = time.perf_counter()
    subprocess.run(command, env=os.environ | {"WINE_DATA": folder}, stdout=subprocess.DEVNULL, check=True)
    return {"seconds": time.perf_counter() - begin, "memory_setting_gb": settings().memory / 1e9}


MATRICES = {"quantile_matrix": from_memory, "external_memory": from_disk}
WORK = {"over_parts": over_parts, "in_memory": in_memory, "train": train, "whole_flow": whole_flow}


def batches(parts: list[str]):
    return (rows for part in parts for rows in read_batches(part, checked=True))


def measure(place: Path, *words: str) -> dict[str, Any]:
    """Return the result of a measurement with its peak memory, children included; reuse a stored one."""
    record = place / f"{'-'.join([place.name, *words])}.json"
    if not record.exists():
        command = [sys.executable, "-m", "benchmarks.rows", words[0], str(place / "rows"), *words[1:]]
        process, peak = subprocess.Popen(command, stdout=subprocess.PIPE, text=True), 0.0
        while process.poll() is None:
            with suppress(psutil.Error):
                peak = max(peak, memory_gb(process.pid))
            time.sleep(0.5)  # reading the memory of a process pauses it
        result = json.loads(process.communicate()[0].splitlines()[-1])
        result |= {"peak_gb": round(peak, 2), "measured_on": f"{date.today()}"}
        record.write_text(json.dumps(result))
        print(record.name, result, flush=True)
    return json.loads(record.read_text())


def main() -> None:
    config, results = settings(), {}
    real = load_dataset(config).collection
    places = {size: config.local / "bench-rows" / str(size) for size in SIZES}
    for size, place in places.items():
        if not (place / "rows").exists():
            write_rows(real, size, place / "rows", config.seed)
        results[f"{size}"] = {f"parts_{n}": measure(place, "over_parts", n) for n in ("1", "2")}
        if size <= IN_MEMORY:
            results[f"{size}"]["in_memory"] = measure(place, "in_memory")
    training = {way: measure(places[SIZES[-1]], "train", way) for way in MATRICES}
    flow, largest = {}, config.local / "bench-rows" / str(LARGEST)
    if largest.exists():  # an hour
        results[f"{LARGEST}"] = {"parts_2": measure(largest, "over_parts", "2")}
        flow[f"{LARGEST}"] = measure(largest, "whole_flow")
    write_results("rows", {"split": results, "training": training, "whole_flow": flow})


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(WORK[sys.argv[1]](*sys.argv[2:]), default=float))
    else:
        main()
