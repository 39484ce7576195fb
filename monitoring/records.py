"""What each monitoring run measured and decided, stored as a file for later runs and for the simulation's report."""

import json
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from wine_quality.config import Settings
from wine_quality.errors import DataError
from wine_quality.files import atomic_write
from wine_quality.shadow import ShadowComparison
from wine_quality.thresholds import Alert, MonitoringResult


@dataclass(frozen=True)
class RequestCounters:
    """Prediction requests since the service `started` (seconds since 1970), and how many of them it rejected."""

    started: float
    requests: int
    rejected: int

    def since(self, earlier: "RequestCounters | None") -> "RequestCounters":
        """Return the counts since an earlier reading; all of them if the service has restarted since then."""
        if earlier is None or earlier.started != self.started:
            return self
        return RequestCounters(self.started, self.requests - earlier.requests, self.rejected - earlier.rejected)


@dataclass(frozen=True)
class Record:
    """One monitoring run: what it measured from `since` to `until`, and what it decided.

    `counters` are the service's at the end of the run, None if it didn't answer. `rows` is how many rows are available
    for training. `trigger` is `drift` or `quality` if a retraining was requested, else empty; `reason` says why, or why
    not. The folder `training_data` has the rows for the retraining. `notify` is true if there is something new to
    report. `shadow` compares the challenger with the champion, and is None if there was no comparison.
    """

    result: MonitoringResult
    alerts: list[Alert]
    since: datetime
    until: datetime
    counters: RequestCounters | None
    rows: int
    trigger: str
    reason: str
    training_data: str
    notify: bool
    shadow: ShadowComparison | None = None

    @property
    def passed_comparison(self) -> ShadowComparison | None:
        """The shadow comparison if the challenger passed it, else None."""
        return self.shadow if self.shadow and self.shadow.passed else None

    @property
    def outcome(self) -> str:
        """Whether a retraining was requested, and the reason."""
        return f"{'retraining requested' if self.trigger else 'no retraining'} ({self.reason})"

    @property
    def shadow_outcome(self) -> str:
        """The shadow comparison, and `promoted` if the challenger passed it."""
        return f"shadow: {self.shadow}{': promoted' if self.passed_comparison else ''}"


RECORD_JSON = TypeAdapter(Record)


def record_path(config: Settings, name: str, suffix: str) -> Path:
    """Return the path of a monitoring run's file."""
    return config.reports / f"{name.replace(' ', '-')}{suffix}"


def save_record(config: Settings, record: Record) -> None:
    """Write a record atomically; it replaces an earlier record of the same name."""
    with atomic_write(record_path(config, record.result.name, ".json")) as part:
        part.write_text(json.dumps(asdict(record), indent=2, default=str))


def load_records(config: Settings) -> list[Record]:
    """Return all records, oldest first; raise `DataError` if a file is not a record."""
    records = []
    for path in config.reports.glob("*.json"):
        try:
            records.append(RECORD_JSON.validate_json(path.read_bytes()))
        except ValidationError:
            raise DataError(f"{path}: not a record of a monitoring run. Delete it and monitor again.") from None
    return sorted(records, key=lambda record: record.until)
