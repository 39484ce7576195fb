"""What each look at the model found, kept as a file: the next look needs it, and so does the page of the year."""

import json
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from wine_quality.config import Settings
from wine_quality.errors import DataError
from wine_quality.files import whole_file
from wine_quality.thresholds import Finding, Reading


@dataclass(frozen=True)
class Counters:
    """What the service has counted since its start (seconds since 1970): requests with wines, and the refused ones."""

    started: float
    asked: int
    refused: int

    def since(self, earlier: "Counters | None") -> "Counters":
        """Return what was counted since an earlier time; all of it where the service was started anew meanwhile."""
        if earlier is None or earlier.started != self.started:
            return self
        return Counters(self.started, self.asked - earlier.asked, self.refused - earlier.refused)


@dataclass(frozen=True)
class Record:
    """One look: what was read, what is wrong, and what follows.

    Attributes
    ----------
    since, until : datetime
        The time looked at.
    counters : Counters or None
        Those of the service at its end.
    known : int
        How many labelled wines there are to learn from.
    event : str
        `drift` or `quality` where a new model was asked for, else empty.
    why : str
        Why, or why not.
    data : str
        The folder of wines that the new model is to be trained on, or an empty text.
    news : bool
        Whether something is wrong that was not wrong at the look before, or a new model was asked for.
    """

    reading: Reading
    findings: list[Finding]
    since: datetime
    until: datetime
    counters: Counters | None
    known: int
    event: str
    why: str
    data: str
    news: bool


PARSED = TypeAdapter(Record)


def path_of(config: Settings, name: str, ending: str) -> Path:
    """Return the file of a look by its name, with its ending."""
    return config.reports / f"{name.replace(' ', '-')}{ending}"


def keep(config: Settings, record: Record) -> None:
    """Write a record, whole or not at all; one of the same name is written over."""
    with whole_file(path_of(config, record.reading.name, ".json")) as part:
        part.write_text(json.dumps(asdict(record), indent=2, default=str))


def records(config: Settings) -> list[Record]:
    """Return all records, oldest first.

    Raises
    ------
    DataError
        A file is not one of them.
    """
    return sorted((read(path) for path in config.reports.glob("*.json")), key=lambda record: record.until)


def read(path: Path) -> Record:
    """Return the record in a file."""
    try:
        return PARSED.validate_json(path.read_bytes())
    except ValidationError:
        raise DataError(f"{path}: not the record of a look. Take it away, and what it knew with it.") from None
