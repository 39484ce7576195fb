"""Engines run units of work: in this process, in several processes of this machine, or on a Dask cluster.

An engine takes numbered units and returns their results in the order in which they finish. A unit is a function that
can be pickled, with its arguments. If its worker dies, the unit runs again, so it must be idempotent.
"""

import hashlib
import os
import pickle
import platform
import re
import signal
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass
from importlib.metadata import version
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Thread
from typing import Any, Protocol

from threadpoolctl import threadpool_limits

from wine_quality.config import Settings
from wine_quality.errors import EngineError, SettingsError

TRIES = 3  # how many workers may die while they run a unit
CONNECT_SECONDS, WORKER_SECONDS = 10, 60  # how long to wait for a scheduler, and for a worker
LOOK_SECONDS, CLOSE_SECONDS = 2, 3  # between two checks for a worker; to wait for a scheduler on closing
LOOPBACK = re.compile(r"(127(\.\d+){3}|localhost|\[::1\]):\d+")
XGBOOST = "xgboost-cpu" if sys.platform == "linux" else "xgboost"  # xgboost-cpu has wheels for Linux only
LIBRARIES = ("numpy", "pandas", "scipy", "scikit-learn", XGBOOST)
ONE_THREAD = {"LOKY_MAX_CPU_COUNT": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # for a worker


class Engine(Protocol):
    """What the search, batch scoring and training on many rows need from an engine."""

    @property
    def workers(self) -> int:
        """How many units run in parallel."""
        ...

    def submit(self, number: int, work: Callable[..., Any], *arguments: Any) -> None:
        """Start a unit of work, or queue it."""

    def next_done(self) -> tuple[int, Any]:
        """Wait for the next unit to finish, and return its number and result, or raise its exception."""
        ...


def run_all(engine: Engine, work: Callable[..., Any], calls: Iterable[tuple]) -> Iterator[tuple[int, Any]]:
    """Yield the number and the result of each call as it finishes, with up to two submitted for each worker."""
    waiting, under_way = iter(enumerate(calls)), 0
    while True:
        while under_way < 2 * engine.workers and (following := next(waiting, None)):
            engine.submit(following[0], work, *following[1])
            under_way += 1
        if not under_way:
            return
        yield engine.next_done()
        under_way -= 1


@dataclass(frozen=True)
class Shared:
    """A value that each worker computes once, by `make(*arguments)`, and caches until it needs another one.

    Only the function and its arguments are sent, so the value can be recomputed if a worker dies; scattered data can't.
    `key` identifies the value.
    """

    key: str
    make: Callable[..., Any]
    arguments: tuple[Any, ...] = ()

    def get(self) -> Any:
        """Return the value, computed now unless this process has cached it."""
        if self.key not in _HELD:
            _HELD.clear()
            _HELD[self.key] = self.make(*self.arguments)
        return _HELD[self.key]


_HELD: dict[str, Any] = {}  # the last shared value of this process


class InProcess:
    """Runs one unit after the other in this process, each when its result is requested."""

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
    """Runs units in parallel in processes of this machine, each with one thread. A process that dies is replaced.

    The processes end when the engine is closed or this process dies, because each waits for a pipe to close.
    """

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self.units: dict[int, tuple[Callable[..., Any], tuple[Any, ...]]] = {}
        self.futures: dict[Future, int] = {}
        self.lost: Counter[int] = Counter()
        self.context = get_context("spawn")
        self.reader, self.writer = self.context.Pipe(duplex=False)
        self.pool = self.new_pool()

    def new_pool(self) -> ProcessPoolExecutor:
        """Return a pool of new processes, which inherit no threads from this one."""
        own: Any = {"mp_context": self.context, "initializer": end_with_pipe, "initargs": (self.reader,)}
        return ProcessPoolExecutor(self.workers, **own)

    def submit(self, number: int, work: Callable[..., Any], *arguments: Any) -> None:
        """Start a unit, or queue it in the pool."""
        self.units[number] = work, arguments
        self.start(number)

    def start(self, number: int) -> None:
        """Submit a unit to the pool, or to a new one if the pool is broken."""
        work, arguments = self.units[number]
        try:
            self.futures[self.pool.submit(run_on_one_thread, work, *arguments)] = number
        except BrokenProcessPool:
            self.restart()

    def next_done(self) -> tuple[int, Any]:
        """Wait for the next unit; if a process dies, restart the units that were running."""
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
        """Submit the unfinished units to a new pool; raise `EngineError` if a unit has been lost too often."""
        self.pool.shutdown(cancel_futures=True)  # waits until every future has ended
        ended = {future: n for future, n in self.futures.items() if not future.cancelled()}
        self.futures = {f: n for f, n in ended.items() if not isinstance(f.exception(), BrokenProcessPool)}
        unfinished = [number for number in self.units if number not in self.futures.values()]
        running = unfinished[: self.workers]  # one of them may have ended its process; the others were queued
        self.lost.update(running)
        if any(self.lost[number] >= TRIES for number in running):
            which = " or ".join(map(str, running))
            raise EngineError(f"unit {which} of the work ended its process {TRIES} times. Is there enough memory?")
        self.pool = self.new_pool()
        for number in unfinished:
            if number not in self.futures.values():  # if the new pool broke too, all units were restarted
                self.start(number)

    def close(self) -> None:
        """End the processes, and the units that they run."""
        self.writer.close()
        self.pool.shutdown(cancel_futures=True)
        self.reader.close()


def end_with_pipe(reader: Connection) -> None:
    """End this process, whatever it is doing, when the pipe's other end closes; an interrupt ends it silently."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)

    def wait_for_end() -> None:
        reader.poll(None)
        os._exit(1)

    Thread(target=wait_for_end, daemon=True).start()


def run_on_one_thread(work: Callable[..., Any], *arguments: Any) -> Any:
    """Run a unit with one thread for BLAS, OpenMP and joblib, because other workers use the other cores."""
    os.environ.update(ONE_THREAD)  # for libraries that are loaded later; joblib reads it each time
    with threadpool_limits(1):
        return work(*arguments)


class OnDask:
    """Runs units on the workers of a Dask cluster, which must have the same code and library versions.

    For an address that starts with `tls://`, `tls` is the folder of `ca.pem`, `cert.pem` and `key.pem`. Any other
    address must be on loopback, because anyone who reaches a scheduler can run code on its workers. Raise
    `EngineError` if no scheduler answers, if it has no worker for `patience` seconds, or if it goes away later.
    """

    def __init__(self, address: str, tls: Path, patience: float = WORKER_SECONDS) -> None:
        from distributed import Client

        self.address, self.patience, self.futures = address, patience, {}
        security = security_of(address, tls)
        try:
            self.client = Client(address, security=security, timeout=CONNECT_SECONDS, set_as_default=False)
        except (OSError, OverflowError, ValueError) as error:
            raise EngineError(
                f"WINE_DASK={address}: no scheduler answers ({error}). Start it, or fix the address or certificates."
            ) from None
        try:
            self.wait_for_worker()
        except EngineError:
            self.close()
            raise

    @property
    def workers(self) -> int:
        """The current number of workers."""
        return max(1, len(self.client.scheduler_info(n_workers=-1)["workers"]))

    def submit(self, number: int, work: Callable[..., Any], *arguments: Any) -> None:
        """Send a unit to the scheduler, pickled so that it isn't unpacked there; the lowest number runs first."""
        unit = pickle.dumps((work, arguments))
        self.futures[number] = self.client.submit(run_on_worker, fingerprint(), unit, pure=False, priority=-number)

    def next_done(self) -> tuple[int, Any]:
        """Wait for the next unit."""
        from distributed import KilledWorker

        number = self.wait_for_unit()
        try:
            return number, self.futures.pop(number).result()
        except KilledWorker:
            raise EngineError(
                f"unit {number} of the work ended its worker each time. Is there enough memory?"
            ) from None
        except CancelledError:
            raise self.gone() from None

    def wait_for_unit(self) -> int:
        """Return the lowest number of the units that are done; while waiting, check that there are workers."""
        from distributed import wait as wait_on_cluster

        while True:
            try:
                with self.client.as_current():
                    found: Any = wait_on_cluster([*self.futures.values()], LOOK_SECONDS, FIRST_COMPLETED)
                return min(number for number, future in self.futures.items() if future in found.done)
            except CancelledError:
                raise self.gone() from None
            except TimeoutError:
                self.wait_for_worker()

    def wait_for_worker(self) -> None:
        """Wait until there is a worker; raise `EngineError` if none joins in time."""
        try:
            self.client.wait_for_workers(1, timeout=self.patience)
        except TimeoutError:
            raise EngineError(
                f"the Dask cluster at {self.address} had no worker for {self.patience:g} s. Start one and run again."
            ) from None
        except OSError:
            raise self.gone() from None

    def gone(self) -> EngineError:
        """Return the error for a scheduler that no longer answers."""
        return EngineError(f"the Dask scheduler at {self.address} went away. Start it and its workers, and run again.")

    def close(self) -> None:
        """Cancel the remaining units, and disconnect."""
        self.client.close(timeout=CLOSE_SECONDS)


def security_of(address: str, tls: Path) -> Any:
    """Return the TLS settings for a scheduler; raise `SettingsError` if its address or certificates are unusable."""
    from distributed import Security

    scheme, _, host = address.partition("://")
    if scheme == "tcp" and LOOPBACK.fullmatch(host):
        return None
    if scheme != "tls":
        raise SettingsError(
            f"WINE_DASK={address}: plain tcp:// is for loopback only (tcp://127.0.0.1:8786), because anyone who "
            "reaches a scheduler can run code on its workers. Use tls:// with the certificates in WINE_DASK_TLS."
        )
    files = {"tls_ca_file": "ca.pem", "tls_client_cert": "cert.pem", "tls_client_key": "key.pem"}
    if missing := [name for name in files.values() if not (tls / name).is_file()]:
        raise SettingsError(f"WINE_DASK_TLS={tls}: there is no {', '.join(missing)}. Copy them from the scheduler.")
    return Security(require_encryption=True, **{option: str(tls / name) for option, name in files.items()})


def run_on_worker(expected: dict[str, str], unit: bytes) -> Any:
    """Run a pickled unit; raise `EngineError` if this worker has different code or libraries than the client."""
    own = fingerprint()
    if other := [name for name in expected if own.get(name) != expected[name]]:
        details = ", ".join(f"{name} {own.get(name)}, not {expected[name]}" for name in other)
        raise EngineError(f"a worker on {platform.node()} differs from its client: {details}. Update and restart it.")
    work, arguments = pickle.loads(unit)
    return run_on_one_thread(work, *arguments)


def fingerprint() -> dict[str, str]:
    """Return a checksum of the package's code, and the versions of Python and libraries that results depend on."""
    return {
        "code": CODE_SHA256[:12],
        "python": platform.python_version(),
        **{name: version(name) for name in LIBRARIES},
    }


def code_checksum(*others: Path) -> str:
    """Return the SHA-256 of the package's source on disk, and of other files."""
    sources = [*sorted(Path(__file__).parent.glob("*.py")), *others]
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in sources)).hexdigest()


CODE_SHA256 = code_checksum()  # at import: after an upgrade on disk this process still runs the old code


def open_engine(config: Settings) -> AbstractContextManager[Engine]:
    """Open the engine of the settings: Dask for `WINE_DASK`, else `WINE_WORKERS` processes, else this process."""
    if config.dask:
        try:
            return closing(OnDask(config.dask, config.dask_tls))
        except ImportError:
            raise SettingsError(f"WINE_DASK={config.dask} needs Dask. Install it: make setup-scaling.") from None
    return closing(Processes(config.workers)) if config.workers > 1 else nullcontext(InProcess())
