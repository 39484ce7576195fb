"""What do more workers and an ordered window do to a search? `python -m benchmarks.trials` with `WINE_DATA` set.

Time: 30 trials on the real training set with a window of 4, in this process (whose threads use all cores), in one and
two processes of one thread each, and on two Dask workers on this machine, in turn, `REPEATS` times. All must give the
same trials. Quality: the best loss with windows of 1, 2 and 4 and five seeds each, on three folds of a quarter of the
rows, so that 600 trials take minutes. It shows whether a window costs quality, not how good the models are.

`python -m benchmarks.trials time` or `quality` measures only that, and leaves the other results unchanged.
"""

import json
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
from distributed import LocalCluster
from sklearn.model_selection import StratifiedKFold

from benchmarks.machine import RESULTS, spread, write_results
from benchmarks.search import interval
from wine_quality import sources, splits, tracking, tuning
from wine_quality.config import settings
from wine_quality.engines import InProcess, OnDask, Processes
from wine_quality.schema import TARGET
from wine_quality.search import Draws, evaluate_in_order, search
from wine_quality.tuning import Objective, Trial

TRIALS, WINDOW, REPEATS = 30, 4, 3
WINDOWS, SEEDS, CHEAP_TRIALS = (1, 2, 4), range(5), 40


class CheapObjective(Objective):
    """The objective of a search on three folds of a quarter of the rows."""

    def __init__(self, train: pd.DataFrame, seed: int) -> None:
        super().__init__(train.sample(frac=0.25, random_state=seed), seed)
        strata = splits.merge_rare_labels(cast(pd.Series, self.train[TARGET]))
        self.folds = list(StratifiedKFold(3, shuffle=True, random_state=seed).split(self.train, strata))


@contextmanager
def dask(workers: int) -> Iterator[Any]:
    """Run a Dask cluster on loopback, and yield its engine."""
    options = {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0", "threads_per_worker": 1}
    cluster: Any = LocalCluster(n_workers=workers, **options)
    with cluster, closing(OnDask(cluster.scheduler_address, Path())) as engine:
        yield engine


ENGINES = {
    "in process": lambda: nullcontext(InProcess()),
    "1 process": lambda: closing(Processes(1)),
    "2 processes": lambda: closing(Processes(2)),
    "Dask, 2 workers": lambda: dask(2),
}


def timed_search(name: str, train: pd.DataFrame, seed: int) -> tuple[list[Trial], dict[str, float]]:
    """Return the trials of a search on a warmed-up engine, its seconds, and the CPU seconds of its trials."""
    with tempfile.TemporaryDirectory() as home, ENGINES[name]() as engine:
        store = tracking.open_store(settings(home=Path(home)))
        for number in range(2 * engine.workers):  # each worker imports the libraries before the clock starts
            engine.submit(number, tuning.evaluate, Objective(train.iloc[::40], seed), {"name": "linear"})
        for _ in range(2 * engine.workers):
            engine.next_done()
        started, objective = time.monotonic(), Objective(train, seed)
        trials, _ = search(
            store.client, store.experiment_id, objective, TRIALS, Path(home), engine=engine, window=WINDOW
        )
        seconds = time.monotonic() - started
    print(f"{name}: {seconds:.0f} s", flush=True)
    return trials, {"seconds": seconds, "cpu_seconds": sum(trial.cpu_seconds for trial in trials)}


def measure_time(train: pd.DataFrame, seed: int) -> dict:
    """Return the seconds of each engine, and its speed-up over one worker of the same kind."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in ENGINES}
    same: list[list[Trial]] = []
    for _ in range(REPEATS):
        for name in ENGINES:
            trials, figures = timed_search(name, train, seed)
            same.append(trials)
            found[name].append(figures)
    assert all(trials == same[0] for trials in same), "an engine gave different trials"

    def ratio(slow: str, fast: str) -> dict[str, float]:
        return spread([a["seconds"] / b["seconds"] for a, b in zip(found[slow], found[fast], strict=True)])

    return {
        "trials": TRIALS,
        "window": WINDOW,
        "engines": {
            name: {what: spread([one[what] for one in figures], 1) for what in ("seconds", "cpu_seconds")}
            for name, figures in found.items()
        },
        "two_processes_against_one": ratio("1 process", "2 processes"),
        "two_processes_against_this_one": ratio("in process", "2 processes"),
        "two_workers_of_dask_against_one_process": ratio("1 process", "Dask, 2 workers"),
        "same_trials_on_all_engines": True,
    }


def losses(train: pd.DataFrame, seed: int, window: int) -> list[float]:
    """Return the best loss so far at each trial of a search with a window; this is a unit of work."""
    draws = Draws(CheapObjective(train, seed), tuning.hyperopt_space(tuning.default_space()), window)
    trials: dict[int, Trial] = {}
    for _ in evaluate_in_order(draws, InProcess(), trials, CHEAP_TRIALS):
        pass
    return np.minimum.accumulate([trials[number].loss or np.inf for number in range(CHEAP_TRIALS)]).tolist()


def measure_quality(train: pd.DataFrame) -> dict:
    """Return the best loss of each window, and its difference from a window of 1, over the seeds."""
    units = [(seed, window) for window in WINDOWS for seed in SEEDS]
    with closing(Processes(2)) as engine:
        for number, unit in enumerate(units):
            engine.submit(number, losses, train, *unit)
        done = dict(engine.next_done() for _ in units)
    best = {
        window: np.array([done[units.index((seed, window))] for seed in SEEDS])[:, [29, CHEAP_TRIALS - 1]]
        for window in WINDOWS
    }
    return {
        "share_of_rows": 0.25,
        "folds": 3,
        "seeds": len(SEEDS),
        "after_trials": {
            str(trials): {
                str(window): {
                    "mean_best_loss": float(best[window][:, column].mean()),
                    "over_window_1": interval(best[window][:, column] - best[1][:, column]),
                }
                for window in WINDOWS
            }
            for column, trials in enumerate((30, CHEAP_TRIALS))
        },
    }


def main(what: str = "") -> None:
    rows = splits.distinct_rows(sources.load_dataset(settings()).collection)
    train, _ = splits.train_gate_split(rows)
    path = RESULTS / "trials.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    results.pop("machine", None)
    if what in ("", "time"):
        results["time"] = measure_time(train, settings().seed)
    if what in ("", "quality"):
        results["quality"] = measure_quality(train)
    write_results("trials", {"rows": len(train), **results})


if __name__ == "__main__":
    main(*sys.argv[1:])
