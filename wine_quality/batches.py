"""Batches: files of rows in the bucket, scored once by each version of the model.

A file under `incoming/` stays there, so that a later version can score it too. The result is written to `scored/` under
the same name, with the columns of `ADDED`; an input column with one of those names gets the prefix `given_`. A marker
next to it, `<name>.json`, has the version and the SHA-256 checksum of the input, so a version scores the same content
once. A file that can't be scored is moved to `rejected/`, together with the reasons.

Each row's prediction is also stored in the predictions database, for monitoring. Its id is derived from the file, the
version and the row, so scoring a file again after a failure stores nothing twice. The id lets you add a label later.

A process may be killed at any step. Predictions are stored first, the marker is emptied before the scored file is
written and completed afterwards, and a rejected file is removed from `incoming/` last, so that the next run
completes what was interrupted.

Workers may score files in parallel: each opens a `Workplace` once, and a file whose worker dies is scored again.
"""

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Literal
from uuid import NAMESPACE_URL, uuid4

import numpy as np
import pandas as pd
import pyarrow as pa

from wine_quality import predictions, tracking
from wine_quality.config import Settings, settings
from wine_quality.engines import Engine, Shared, run_all
from wine_quality.errors import DataError, PredictionsError, StorageError, StorageUnavailable, TrackingError
from wine_quality.files import sha256, translate_disk_errors
from wine_quality.predictions import Prediction, json_lines
from wine_quality.schema import FEATURES, SHOWN_PROBLEMS, Problems, problem_line, to_matrix
from wine_quality.scoring import Scorer, load_scorer
from wine_quality.storage import Bucket, Entry, check_reachable, translate_s3_errors
from wine_quality.table_files import KINDS

INCOMING, SCORED, REJECTED = "incoming/", "scored/", "rejected/"
MARKER, REASONS = ".json", ".reasons.txt"  # after the name of the file
TRANSIENT = (PredictionsError, StorageUnavailable, TrackingError)
RETRY_AFTER = (0.5, 1.0, 2.0, 4.0)  # seconds
VARIANT = {digit: "89ab"[int(digit, 16) % 4] for digit in "0123456789abcdef"}  # of a UUID by RFC 9562
LONGEST_NAME = 200  # bytes: with what is added, every S3 server takes it
ADDED = {
    "score": pa.float64(),
    "low": pa.float64(),
    "high": pa.float64(),
    "quality": pa.int64(),
    "model_version": pa.string(),
    "scored_at": pa.string(),
    "prediction_id": pa.string(),
}


@dataclass(frozen=True)
class Outcome:
    """The result for a file under `incoming/`: how many rows are scored, by which version, or why it has no scores.

    `unchanged` means that it was scored before. `changed` (another file took its place while it was read) and `failed`
    (the bucket didn't respond) leave the file to the next run. `reasons` say why it was rejected or failed.
    """

    file: str
    rows: int
    version: str
    state: Literal["scored", "unchanged", "rejected", "changed", "failed"]
    reasons: str = ""


def list_incoming(bucket: Bucket) -> list[Entry]:
    """Return the objects under `incoming/` by name; raise `StorageError` if the bucket cannot be listed."""
    check_reachable(bucket)
    with translate_s3_errors(bucket.bucket_name):
        return [entry for entry in bucket.list_objects(INCOMING) if not entry["Key"].endswith("/")]


def safe_name(entry: Entry) -> str:
    """Return the name of an object under `incoming/` if it is a plain path, otherwise one made from its checksum.

    Anyone who can write to the bucket chooses the names, so names with `..` or unprintable characters are replaced.
    """
    name = entry["Key"].partition(INCOMING)[2]
    path = PurePosixPath(name)
    plain = str(path) == name and not path.is_absolute() and ".." not in path.parts
    if plain and name.isprintable() and len(name.encode()) <= LONGEST_NAME:
        return name
    return f"unfit-name-{hashlib.sha256(name.encode()).hexdigest()[:16]}"


@dataclass(frozen=True)
class Workplace:
    """What a process needs to score files: the open bucket, a loaded version, a folder, and where predictions go."""

    bucket: Bucket
    scorer: Scorer
    folder: Path
    predictions_uri: str = field(repr=False)


def workplace(config: Settings, version: str, bucket: Bucket) -> Shared:
    """Return a recipe for the workplace of a version, from which each worker opens its own once."""
    return Shared(f"batches-{uuid4()}", open_workplace, (config, version, bucket))


def open_workplace(config: Settings, version: str, bucket: Bucket) -> Workplace:
    """Load a version from the registry; raise what `load_scorer` raises. The folder is in the home of this process."""
    with tracking.store(config) as store:
        registered = store.client.get_model_version(store.model_name, version)
    return Workplace(bucket, load_scorer(config, registered), settings().local / "batch", config.predictions_uri)


def process_at(place: Shared, entry: Entry) -> Outcome:
    """Score or reject an object in its own working folder, as `process` does."""
    here: Workplace = place.get()
    return process(here.bucket, entry, here.scorer, here.folder / uuid4().hex, here.predictions_uri)


def process_on_worker(_name: str, place: Shared, entry: Entry) -> Outcome:
    """Score or reject an object, and retry after transient failures."""
    for seconds in RETRY_AFTER:
        try:
            return process_at(place, entry)
        except TRANSIENT:
            time.sleep(seconds)
    return process_at(place, entry)


def spread(
    engine: Engine, entries: list[Entry], work: Callable[[str, Shared, Entry], Outcome], place: Shared
) -> Iterator[tuple[int, Outcome]]:
    """Yield the number and the outcome of each object once `work` is done; only a few wait in the engine at a time.

    A file on which the bucket fails does not stop the others. Raise what `work` and the engine raise.
    """
    return run_all(engine, outcome_of, ((work, safe_name(entry), place, entry) for entry in entries))


def outcome_of(work: Callable[[str, Shared, Entry], Outcome], name: str, place: Shared, entry: Entry) -> Outcome:
    """Return the outcome of an object, `failed` if the bucket responds with an error."""
    try:
        return work(name, place, entry)
    except StorageUnavailable:
        raise
    except StorageError as error:
        return Outcome(name, 0, "", "failed", str(error))


def process(bucket: Bucket, entry: Entry, scorer: Scorer, folder: Path, predictions_uri: str) -> Outcome:
    """Score an object of `list_incoming` in the working folder `folder`, unless it was scored before, or reject it.

    Raise `PredictionsError` if the database is unavailable, `StorageError` if the bucket can't be used or the object is
    gone, and `DataError` if the disk can't be written. In that case, the object stays for the next run.
    """
    name = safe_name(entry)
    with translate_s3_errors(bucket.bucket_name, entry["Key"]), empty_folder(folder):
        source = folder / f"source{PurePosixPath(name).suffix.lower()}"
        content = bucket.credentials.get_s3_client().get_object(Bucket=bucket.bucket_name, Key=entry["Key"])
        with source.open("wb") as file:
            shutil.copyfileobj(content["Body"], file)
        try:
            return score_once(bucket, name, source, scorer, predictions_uri)
        except DataError as error:
            return reject(bucket, entry, source, str(error).removeprefix(f"{source}: "))


def score_once(bucket: Bucket, name: str, source: Path, scorer: Scorer, predictions_uri: str) -> Outcome:
    """Score a file, store its predictions and upload the result, unless this version has scored the same content."""
    if source.suffix not in KINDS:
        raise DataError(f"{source}: its name must be a plain path, not too long, and end in .csv or .parquet.")
    marker = {"sha256": sha256(source), "version": scorer.version}
    previous = read_marker(bucket, name)
    if marker.items() <= previous.items():
        return Outcome(name, previous["rows"], scorer.version, "unchanged")
    target, lines, now = source.with_name("scored"), source.with_name("predictions"), datetime.now(UTC)
    with lines.open("wb") as file:
        writer = PredictionWriter(scorer, now, f"{name} {marker['sha256']} {scorer.version}", file)
        rows = score_file(source, target, writer)
    predictions.insert_file(predictions_uri, lines)
    upload(bucket, name, target, marker | {"rows": rows, "scored_at": writer.scored_at})
    return Outcome(name, rows, scorer.version, "scored")


@dataclass
class PredictionWriter:
    """Scores a file chunk by chunk, and writes a prediction of time `now` (UTC) for each row to `lines`.

    `file` identifies the file and its content; the prediction ids are derived from it. `rows` counts the scored ones.
    """

    scorer: Scorer
    now: datetime
    file: str
    lines: BinaryIO
    rows: int = 0

    @property
    def scored_at(self) -> str:
        """The time as written to a scored file."""
        return self.now.isoformat(timespec="seconds")

    def score(self, table: pd.DataFrame) -> pd.DataFrame:
        """Score a chunk, and return the columns of `ADDED` for its rows."""
        scored, version = self.scorer.score_with_interval(to_matrix(table)), self.scorer.version
        ids = row_ids(self.file, range(self.rows + 1, self.rows + len(table) + 1))
        self.rows += len(table)
        rows = zip(ids, table.filter(FEATURES).to_dict("records"), scored.tolist(), strict=True)
        self.lines.write(json_lines(Prediction(id, self.now, version, row, *values) for id, row, values in rows))
        score, low, high = scored.T
        values = (score, low, high, np.rint(score).astype(int), version, self.scored_at, ids)
        return pd.DataFrame(dict(zip(ADDED, values, strict=True)))


def row_ids(file: str, rows: range) -> list[str]:
    """Return what `str(uuid5(NAMESPACE_URL, f"{file} {row}"))` would for each row, but four times as fast."""
    start, ids = hashlib.sha1(NAMESPACE_URL.bytes + f"{file} ".encode(), usedforsecurity=False), []
    for row in rows:
        one = start.copy()
        one.update(b"%d" % row)
        sum_ = one.hexdigest()
        ids.append(f"{sum_[:8]}-{sum_[8:12]}-5{sum_[13:16]}-{VARIANT[sum_[16]]}{sum_[17:20]}-{sum_[20:32]}")
    return ids


def score_file(source: Path, target: Path, writer: PredictionWriter) -> int:
    """Score a `.csv` or `.parquet` file in chunks, write its rows with the columns of `ADDED`, and return their number.

    The file has the columns of `schema.FEATURES`, and may have others; measurements may be blank. Raise `DataError`
    with all problems, the first ten in full; `target` is incomplete in that case.
    """
    file, rows, further = KINDS[source.suffix](source), 0, 0
    problems: Problems = {}
    with file.writer(target, ADDED) as write:
        for chunk in file.chunks():
            table, new = file.parse(chunk)
            ordered = sorted((problems | new).items())
            problems = dict(ordered[:SHOWN_PROBLEMS])  # a file may have millions
            further += len(ordered[SHOWN_PROBLEMS:])
            if not problems:
                write(chunk, writer.score(table))
            rows += len(chunk)
    if problems:
        raise DataError(problem_line(str(source), problems, further))
    if not rows:
        raise DataError(f"{source}: it has no rows. Write it again.")
    return rows


def read_marker(bucket: Bucket, name: str) -> dict[str, Any]:
    """Return the content of a scored file's marker; empty if one of the two is missing, or the marker is damaged."""
    names = {entry["Key"].partition(SCORED)[2] for entry in bucket.list_objects(f"{SCORED}{name}")}
    if {name, f"{name}{MARKER}"} <= names:
        with suppress(ValueError):
            marker = json.loads(bucket.read_path(f"{SCORED}{name}{MARKER}"))
            return marker if isinstance(marker, dict) and "rows" in marker else {}
    return {}


def upload(bucket: Bucket, name: str, scored: Path, marker: dict[str, Any]) -> None:
    """Upload a scored file, then its marker; an earlier marker is emptied first."""
    bucket.write_path(f"{SCORED}{name}{MARKER}", b"{}")
    bucket.upload_from_path(scored, f"{SCORED}{name}")
    bucket.write_path(f"{SCORED}{name}{MARKER}", json.dumps(marker, indent=2).encode())


def reject(bucket: Bucket, entry: Entry, source: Path, reasons: str) -> Outcome:
    """Move an object to `rejected/`, its reasons first, unless another object has replaced it in the meantime."""
    name, client = safe_name(entry), bucket.credentials.get_s3_client()
    current = client.list_objects_v2(Bucket=bucket.bucket_name, Prefix=entry["Key"]).get("Contents", [])
    if entry not in current:
        return Outcome(name, 0, "", "changed")
    bucket.write_path(f"{REJECTED}{name}{REASONS}", f"{entry['Key']!r}: {reasons}\n".encode())
    bucket.upload_from_path(source, f"{REJECTED}{name}")
    client.delete_object(Bucket=bucket.bucket_name, Key=entry["Key"])
    return Outcome(name, 0, "", "rejected", reasons)


@contextmanager
def empty_folder(folder: Path) -> Iterator[None]:
    """Create an empty folder, whatever a killed process left there, and delete it at the end."""
    with translate_disk_errors(folder):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        try:
            yield
        finally:
            shutil.rmtree(folder)
