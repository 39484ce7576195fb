"""The champion: looked up by its alias every few seconds, and swapped in while requests are being answered."""

import asyncio
import ctypes
import gc
import logging
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from mlflow.entities.model_registry import ModelVersion

from deployment.neighbours import RowIndex, load_rows
from wine_quality import registry, tracking
from wine_quality.config import Settings
from wine_quality.errors import RegistryError, WineError
from wine_quality.scoring import Scorer, load_scorer

log = logging.getLogger("wine_quality.champion")

RETRY_SECONDS = 60  # until a version that failed to load is tried again
NO_CHAMPION = "no version has the alias champion. Train one: make run."


@dataclass(frozen=True)
class FailedVersion:
    """A version that failed to load, the reason, and when to try it again (monotonic seconds)."""

    version: tuple[str, str]
    why: str
    until: float


class Champion:
    """The version with the alias `champion`, ready to score.

    `scorer` is None until a version is loaded. A request takes it once and keeps it: a swap replaces the reference and
    leaves the old scorer unchanged. `rows` are those logged with the version, or None, and `since` is when it was
    loaded. `problem` says why the version that is serving isn't the one with the alias, and is empty if it is.
    """

    def __init__(self, config: Settings, seconds: float = 5) -> None:
        self.config, self.seconds = config, seconds
        self.scorer: Scorer | None = None
        self.rows: RowIndex | None = None
        self.since = datetime.now(UTC)
        self.problem = "the champion is still loading"
        self.failed: FailedVersion | None = None

    async def poll(self) -> None:
        """Refresh in a thread, at once and then every `seconds`, until cancelled."""
        stopped = threading.Event()

        def refresh_until_stopped() -> None:
            while not stopped.is_set():
                self.refresh()
                stopped.wait(self.seconds)

        thread = threading.Thread(target=refresh_until_stopped, name="champion", daemon=True)
        thread.start()
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()
            thread.join(timeout=1)

    def refresh(self) -> None:
        """Load and swap in the version with the alias if it changed. Don't call it in the event loop: it's slow."""
        try:
            problem = self.update()
        except WineError as error:
            problem = str(error)
        except Exception:  # polling continues whatever happens
            log.exception("the champion can't be looked up")
            problem = "the champion can't be looked up. See the log for the cause."
        if problem and problem != self.problem:
            log.warning("%s", problem)
        self.problem = problem

    def update(self) -> str:
        """Serve the version with the alias; return why that isn't possible, or an empty string."""
        with tracking.existing_store(self.config) as store:
            version = registry.champion(store)
        if version is None:
            return NO_CHAMPION
        wanted, failed = identity(version), self.failed
        if failed and failed.version == wanted and time.monotonic() < failed.until:
            return failed.why
        self.failed = None
        if self.scorer and identity(self.scorer) == wanted:
            return ""
        try:
            self.swap(version)
        except RegistryError as error:
            self.failed = FailedVersion(wanted, str(error), time.monotonic() + RETRY_SECONDS)
            raise
        return ""

    def swap(self, version: ModelVersion) -> None:
        """Load a version and serve it from now on."""
        scorer, old = load_scorer(self.config, version), self.scorer
        if old and scorer.signature != old.signature:
            raise RegistryError(
                f"{version.name} version {scorer.version} has another signature than version {old.version}, which is "
                "still serving. Move the alias champion to another version, or restart the service."
            )
        try:
            rows = load_rows(self.config, version)
        except RegistryError as error:
            log.warning("%s", error)
            rows = None
        self.rows, self.since, self.scorer = rows, datetime.now(UTC), scorer
        release_memory()
        if old is None:
            change = f"version {scorer.version}, loaded at startup"
        elif old.version == scorer.version:
            change = f"version {old.version} -> version {old.version} of another run: the registry was replaced"
        else:
            change = f"version {old.version} -> version {scorer.version}: the alias champion moved"
        log.info("champion  %s %s. Engine: %s (%s)", version.name, change, scorer.engine, scorer.why)


def release_memory() -> None:
    """Return freed memory to the system: after loading a forest, glibc would retain hundreds of megabytes."""
    gc.collect()
    with suppress(AttributeError):  # other C libraries have no malloc_trim
        ctypes.CDLL(None).malloc_trim(0)


def identity(one: ModelVersion | Scorer) -> tuple[str, str]:
    """Return what identifies a version: a new store may reuse its number."""
    return str(one.version), str(one.run_id)
