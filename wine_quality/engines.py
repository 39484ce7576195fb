"""Engines: where units of work run. In this process, in processes of this machine, or on a Dask cluster.

An engine takes work by number and returns what is done, in the order in which it's done. A unit is a function that can
be pickled, with its arguments. A unit whose worker dies runs again, so it must be safe to repeat.
"""

import hashlib
import os
import platform
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Protocol

from wine_quality.config import Settings
from wine_quality.errors import EngineError, SettingsError

TRIES = 3  # how many workers a unit may lose
CONNECT_SECONDS, WORKER_SECONDS = 10, 60  # how long to wait for a scheduler, and for a worker
LIBRARIES = ("numpy", "pandas", "scikit-learn", "hyperopt")
ONE_THREAD = {"LOKY_MAX_CPU_COUNT": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # for a worker


class Engine(Protocol):
    """What the search, the batches and the training on many rows use of an engine; `workers` run side by side."""

    workers: int

    def submit(self, number: int, work: Callable[..., Any], *arguments: Any) -> None:
        """Start a unit of work, or queue it."""

    def next_done(self) -> tuple[int, Any]:
        """Wait for the next unit that is done, and return its number and its result, or raise what it raised."""


@dataclass(frozen=True)
class Shared:
    """A value that each worker makes once, by `make(*arguments)`, and keeps until it needs another one.

    It travels as this recipe, so it survives the death of a worker, which data that was scattered doesn't. `key`
    identifies the value.
    """

    key: str
    make: Callable[..., Any]
    arguments: tuple[Any, ...] = ()

    def get(self) -> Any:
        """Return the value, made now if this process doesn't hold it."""
        if self.key not in _HELD:
            _HELD.clear()
            _HELD[self.key] = self.make(*self.arguments)
        return _HELD[self.key]


_HELD: dict[str, Any] = {}  # of this process: the last shared value


class InProcess:
    """One unit after the other in this process, when its result is asked for."""

    workers = 1

    def __init__(self) -> None:
        self.waiting: deque[tuple[int, Callable[..., Any], tuple[Any, ...]]] = deque()

    def submit(self, number: int, work: Callable[..., Any], *arguments: Any) -> None:
        """Queue a unit."""
        self.waiting.append((number, work, arguments))

    def next_done(self) -> tuple[int, Any]:
        """Run the unit that was submitted first."""
        number, work, arguments = self.waiting.popleft()
        return number, work(*arguments)


class Processes:
    """Units side by side in processes of this machine, each with one thread. A process that dies is replaced."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self.units: dict[int, tuple[Callable[..., Any], tuple[Any, ...]]] = {}
        self.futures: dict[Future, int] = {}
        self.lost: Counter[int] = Counter()
        self.pool = self.new_pool()

    def new_pool(self) -> ProcessPoolExecutor:
        """Return a pool of fresh processes, which inherit no threads of this one."""
        return ProcessPoolExecutor(self.workers, get_context("spawn"), use_one_thread)

    def submit(self, number: int, work: Callable[..., Any], *arguments: Any) -> None:
        """Start a unit, or queue it in the pool."""
        self.units[number] = work, arguments
        try:
            self.futures[self.pool.submit(work, *arguments)] = number
        except BrokenProcessPool:
            self.restart()

    def next_done(self) -> tuple[int, Any]:
        """Wait for the next unit; after the death of a process all that were running start again."""
        while True:
            done, _ = wait(self.futures, return_when=FIRST_COMPLETED)
            future = min(done, key=lambda one: self.futures[one])
            if isinstance(future.exception(), BrokenProcessPool):
                self.restart()
                continue
            number = self.futures.pop(future)
            del self.units[number]
            return number, future.result()

    def restart(self) -> None:
        """Submit to a new pool what the broken one has not finished."""
        unfinished = [number for future, number in self.futures.items() if not future.done() or future.exception()]
        unfinished += [number for number in self.units if number not in self.futures.values()]
        self.lost.update(unfinished)
        if hopeless := [number for number in unfinished if self.lost[number] >= TRIES * self.workers]:
            raise EngineError(f"unit {hopeless[0]} of the work ended its process each time. Is there enough memory?")
        self.pool.shutdown(wait=False, cancel_futures=True)
        self.futures = {future: n for future, n in self.futures.items() if n not in unfinished}
        self.pool = self.new_pool()
        for number in unfinished:
            work, arguments = self.units[number]
            self.futures[self.pool.submit(work, *arguments)] = number

    def close(self) -> None:
        """End the processes."""
        self.pool.shutdown(cancel_futures=True)


def use_one_thread() -> None:
    """Tell the libraries that this process imports later to use one thread."""
    os.environ.update(ONE_THREAD)


class OnDask:
    """Units on the workers of a Dask cluster, which must run this code with these libraries.

    `tls` is a folder with `ca.pem`, `cert.pem` and `key.pem`, for an address that begins with `tls://`. Raise
    `EngineError` if no scheduler answers; later, if it goes away, or has no worker for `patience` seconds.
    """

    def __init__(self, address: str, tls: Path, patience: float = WORKER_SECONDS) -> None:
        from distributed import Client, Security

        security = None
        if address.startswith("tls://"):
            files = {"tls_ca_file": "ca.pem", "tls_client_cert": "cert.pem", "tls_client_key": "key.pem"}
            paths = {option: str(tls / name) for option, name in files.items()}
            security = Security(require_encryption=True, **paths)
        self.address, self.patience, self.futures = address, patience, {}
        try:
            self.client = Client(address, security=security, timeout=CONNECT_SECONDS, set_as_default=False)
            self.client.wait_for_workers(1, timeout=patience)
        except (OSError, TimeoutError) as error:
            raise EngineError(f"WINE_DASK={address}: no cluster answers ({error}). Start it, or mend it.") from None

    @property
    def workers(self) -> int:
        """How many workers there are now."""
        return max(1, len(self.client.scheduler_info(n_workers=-1)["workers"]))

    def submit(self, number: int, work: Callable[..., Any], *arguments: Any) -> None:
        """Send a unit to the scheduler."""
        unit = self.client.submit(run_on_worker, fingerprint(), work, *arguments, pure=False, priority=-number)
        self.futures[number] = unit

    def next_done(self) -> tuple[int, Any]:
        """Wait for the next unit."""
        from distributed import KilledWorker
        from distributed import wait as wait_on_cluster

        while True:
            try:
                done = wait_on_cluster(list(self.futures.values()), timeout=2, return_when=FIRST_COMPLETED).done
            except TimeoutError:
                self.assert_alive()
                continue
            number = min(number for number, future in self.futures.items() if future in done)
            future = self.futures.pop(number)
            if future.cancelled():
                raise EngineError(f"the Dask scheduler at {self.address} went away. Start it and run again.")
            try:
                return number, future.result()
            except KilledWorker:
                raise EngineError(
                    f"unit {number} of the work ended its worker each time. Is there enough memory?"
                ) from None

    def assert_alive(self) -> None:
        """Raise `EngineError` if no worker comes back in time."""
        try:
            self.client.wait_for_workers(1, timeout=self.patience)
        except (OSError, TimeoutError):
            raise EngineError(
                f"the Dask cluster at {self.address} has no worker left. Start one and run again."
            ) from None

    def close(self) -> None:
        """Cancel what is left, and disconnect."""
        self.client.close()


def run_on_worker(expected: dict[str, str], work: Callable[..., Any], *arguments: Any) -> Any:
    """Run a unit, or raise `EngineError` if this worker has another code or other libraries than its client."""
    own = fingerprint()
    if other := [name for name in expected if own[name] != expected[name]]:
        details = ", ".join(f"{name} {own[name]}, not {expected[name]}" for name in other)
        raise EngineError(
            f"a worker on {platform.node()} differs from its client: {details}. Update it and restart it."
        )
    return work(*arguments)


def fingerprint() -> dict[str, str]:
    """Return the checksum of this package's code and the versions that the result of a unit depends on."""
    return {
        "code": CODE_SHA256[:12],
        "python": platform.python_version(),
        **{name: version(name) for name in LIBRARIES},
    }


def code_checksum() -> str:
    """Return the sha256 sum of the package's source on disk."""
    sources = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in sources)).hexdigest()


CODE_SHA256 = code_checksum()  # at import: after an upgrade on disk this process still runs the old code


@contextmanager
def open_engine(config: Settings) -> Iterator[Engine]:
    """Open the engine that the settings name: `WINE_DASK`, else `WINE_WORKERS` processes, else this process."""
    if config.dask:
        try:
            engine: Any = OnDask(config.dask, config.dask_tls)
        except ImportError:
            raise SettingsError(f"WINE_DASK={config.dask} needs Dask. Install it: make setup-scaling.") from None
    elif config.workers > 1:
        engine = Processes(config.workers)
    else:
        yield InProcess()
        return
    try:
        yield engine
    finally:
        engine.close()
