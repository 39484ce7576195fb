"""Units of work for the tests of the engines: a worker imports them from here."""

import os
import signal
import time
from pathlib import Path

import numpy as np
from joblib import cpu_count
from sklearn.ensemble import ExtraTreesRegressor
from threadpoolctl import threadpool_info

from wine_quality.errors import DataError
from wine_quality.processes import wait_until


def square(value: int) -> int:
    return value * value


def slow_square(value: int, seconds: float = 0.3) -> int:
    time.sleep(seconds)
    return value * value


def meet(folder: Path, own: int, other: int) -> int:
    """Return the process id once the unit with the other number runs, too."""
    (folder / str(own)).touch()
    wait_until(lambda: (folder / str(other)).exists(), "the other unit", 120)
    return os.getpid()


def fail(what: str) -> None:
    raise DataError(f"{what}: is not a wine. Fix it.")


def die_once(mark: Path) -> str:
    """Kill the worker that runs this, unless that has happened before."""
    if mark.exists():
        return "done"
    mark.touch()
    return die()


def die() -> str:
    os.kill(os.getpid(), signal.SIGKILL)
    return "never"


def write_pid(mark: Path) -> None:
    mark.write_text(str(os.getpid()))
    time.sleep(60)


def threads() -> tuple[int, int, int]:
    """Return the cores that joblib sees, the threads of linear algebra and OpenMP, and those that a forest adds."""
    np.ones((300, 300)) @ np.ones((300, 300))
    before = len(list(Path("/proc/self/task").iterdir()))
    ExtraTreesRegressor(20, n_jobs=-1).fit(np.ones((50, 2)), np.arange(50))
    after = len(list(Path("/proc/self/task").iterdir()))
    return cpu_count(), max(pool["num_threads"] for pool in threadpool_info()), after - before
