"""The champion as it is served: looked up every few seconds, and swapped in while requests go on."""

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

RETRY_SECONDS = 60  # seconds until a version that failed is tried again
NO_CHAMPION = "no version has the alias champion. Train one: make run."


@dataclass(frozen=True)
class FailedVersion:
    """A version that failed, why, and until when (monotonic seconds) it is not tried again."""

    version: tuple[str, str]
    why: str
    until: float


class Champion:
    """The version that has the alias `champion`, ready to score.

    `scorer` is None until a champion is loaded. A request takes it once and stays with it: a swap puts another in its
    place and changes nothing in the old one. `rows` are those that were logged with it, None where there are none, and
    `since` is when it was loaded, or this object created. `problem` says why it is not the version of the alias; it is
    empty when it is.
    """

    def __init__(self, config: Settings, seconds: float = 5) -> None:
        self.config, self.seconds = config, seconds
        self.scorer: Scorer | None = None
        self.rows: RowIndex | None = None
        self.since = datetime.now(UTC)
        self.problem = "the champion is being loaded"
        self.failed: FailedVersion | None = None

    async def watch(self) -> None:
        """Refresh at once and then every `seconds`, on a thread, until cancelled."""
        over = threading.Event()

        def refresh_until_over() -> None:
            while not over.is_set():
                self.refresh()
                over.wait(self.seconds)

        watcher = threading.Thread(target=refresh_until_over, name="champion", daemon=True)
        watcher.start()
        try:
            await asyncio.Event().wait()
        finally:
            over.set()
            watcher.join(timeout=1)

    def refresh(self) -> None:
        """Load the version of the alias where that is another one, and swap. It takes long: not for the event loop."""
        try:
            problem = self.follow()
        except WineError as error:
            problem = str(error)
        except Exception:  # the watch goes on whatever happens
            log.exception("the champion cannot be looked up")
            problem = "the champion cannot be looked up. The log has the cause."
        if problem and problem != self.problem:
            log.warning("%s", problem)
        self.problem = problem

    def follow(self) -> str:
        """Serve the version of the alias; return why that cannot be, or an empty text."""
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
        """Load a version and let it serve from now on."""
        scorer, old = load_scorer(self.config, version), self.scorer
        if old and scorer.signature != old.signature:
            raise RegistryError(
                f"{version.name} version {scorer.version} has another signature than version {old.version}, which "
                "serves on. Give the alias champion to another version, or start the service anew."
            )
        try:
            rows = load_rows(self.config, version)
        except RegistryError as error:
            log.warning("%s", error)
            rows = None
        self.rows, self.since, self.scorer = rows, datetime.now(UTC), scorer
        release_memory()
        if old is None:
            change = f"version {scorer.version}, the first since the start"
        elif old.version == scorer.version:
            change = f"version {old.version} -> version {old.version} of another run, because the registry was replaced"
        else:
            change = f"version {old.version} -> version {scorer.version}, because the alias champion moved"
        log.info("champion  %s %s. It scores by %s: %s", version.name, change, scorer.engine, scorer.why)


def release_memory() -> None:
    """Return freed memory to the system: after a forest is loaded, glibc would hold on to hundreds of megabytes."""
    gc.collect()
    with suppress(AttributeError):  # other C libraries have no malloc_trim
        ctypes.CDLL(None).malloc_trim(0)


def identity(one: ModelVersion | Scorer) -> tuple[str, str]:
    """Return what a version is known by: its number alone may come again in a store that was made anew."""
    return str(one.version), str(one.run_id)
