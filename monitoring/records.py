"""What each monitoring run measured and decided, stored as a file for the next run and for the simulation's report."""

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
    """Prediction requests since the service `started` (seconds since 1970), and how many of them were rejected."""

    started: float
    requests: int
    rejected: int

    def since(self, earlier: "RequestCounters | None") -> "RequestCounters":
        """Return the difference to an earlier time; all of it if the service was restarted meanwhile."""
        if earlier is None or earlier.started != self.started:
            return self
        return RequestCounters(self.started, self.requests - earlier.requests, self.rejected - earlier.rejected)


@dataclass(frozen=True)
class Record:
    """One monitoring run: what it measured from `since` to `until`, and what it decided.

    `counters` are those of the service at its end, None if it did not answer, and `rows` are available to train on.
    `trigger` is `drift` or `quality` if a retraining was requested, else empty, and `reason` says why, or why not. The
    rows to train on are in the folder `training_data`. `notify` means that something in it is new. `shadow` is the
    comparison of the challenger with the champion, None if there was none.
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
    def earned(self) -> ShadowComparison | None:
        """The comparison that earned the challenger its promotion, if it did."""
        return self.shadow if self.shadow and self.shadow.passed else None

    @property
    def outcome(self) -> str:
        """Whether a retraining was requested, and why."""
        return f"{'retraining requested' if self.trigger else 'no retraining'} ({self.reason})"


PARSED = TypeAdapter(Record)


def record_path(config: Settings, name: str, suffix: str) -> Path:
    """Return the path of a file of a monitoring run."""
    return config.reports / f"{name.replace(' ', '-')}{suffix}"


def save_record(config: Settings, record: Record) -> None:
    """Write a record, whole or not at all; it replaces one of the same name."""
    with atomic_write(record_path(config, record.result.name, ".json")) as part:
        part.write_text(json.dumps(asdict(record), indent=2, default=str))


def load_records(config: Settings) -> list[Record]:
    """Return all records, oldest first; raise a `DataError` if a file is not a record."""
    records = []
    for path in config.reports.glob("*.json"):
        try:
            records.append(PARSED.validate_json(path.read_bytes()))
        except ValidationError:
            raise DataError(f"{path}: not a record of a monitoring run. Delete it, and monitor again.") from None
    return sorted(records, key=lambda record: record.until)
