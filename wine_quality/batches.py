"""Batches: files of wine in the bucket, scored once by each version.

A file waits under `incoming/` and stays there, so that a later version of the model can score it too. Scored, it lies
under the same name in `scored/`, with the columns of `ADDED`; a column of its own that is called like one of them has
`given_` before its name there. A marker beside it, `<name>.json`, has the sha256 sum of what was scored and the
version: the same content is scored by the same version once. What cannot be scored is moved to `rejected/`, with the
reasons beside it.

What is scored is production traffic: each row's prediction goes into the database of predictions, where monitoring
finds it. Its id follows from the file, the version and the row, so that a file that is scored again after a failure is
stored once; `prediction_id` in the scored file is what a label is added by.

A process may be killed at any step. The predictions are stored first. The marker is made void before a scored file is
written, and written after it; a refused file is taken from `incoming/` last. So the next run does again whatever was
not done whole.

The functions take any bucket with the methods of `prefect_aws.S3Bucket`.
"""

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO
from uuid import NAMESPACE_URL, uuid5

import numpy as np
import pandas as pd
import pyarrow as pa

from wine_quality import predictions
from wine_quality.errors import DataError
from wine_quality.files import sha256, translate_disk_errors
from wine_quality.predictions import Prediction, json_lines
from wine_quality.schema import FEATURES, SHOWN_PROBLEMS, Problems, problem_line
from wine_quality.scoring import Scorer, columns_of
from wine_quality.storage import check_reachable, translate_s3_errors
from wine_quality.table_files import KINDS

INCOMING, SCORED, REJECTED = "incoming/", "scored/", "rejected/"
MARKER, REASONS = ".json", ".reasons.txt"  # what they are called after the name of their file
LONGEST_NAME = 200  # bytes: with what is added, every S3 server takes it
ADDED = {
    "score": pa.float64(),
    "quality": pa.int64(),
    "model_version": pa.string(),
    "scored_at": pa.string(),
    "prediction_id": pa.string(),
}

Entry = dict[str, Any]  # an object as S3 lists it


@dataclass(frozen=True)
class Outcome:
    """The result for one file.

    Attributes
    ----------
    file : str
        Its name under `incoming/`.
    rows : int
        How many wines were scored, by now or before.
    version : str
        Of the model; empty where nothing was scored.
    state : str
        `scored`, `unchanged` (it was scored before), `rejected`; or left to the next run: `changed` (another file took
        its place while it was read), `failed` (the bucket did not give or take it).
    reasons : str
        Why it was rejected or failed.
    """

    file: str
    rows: int
    version: str
    state: str
    reasons: str = ""


def list_incoming(bucket: Any) -> list[Entry]:
    """Return the objects under `incoming/`, in the order of their names.

    Raises
    ------
    StorageError
        The bucket cannot be listed.
    """
    check_reachable(bucket)
    with translate_s3_errors(bucket.bucket_name):
        return [entry for entry in bucket.list_objects(INCOMING) if not entry["Key"].endswith("/")]


def safe_name(entry: Entry) -> str:
    """Return the name of an object under `incoming/` if it is a plain path, else one that is made of its checksum.

    Whoever may write to the bucket chooses the names: `..` in one, or a letter that is not printed, goes no further.
    """
    name = entry["Key"].partition(INCOMING)[2]
    path = PurePosixPath(name)
    plain = str(path) == name and not path.is_absolute() and ".." not in path.parts
    if plain and name.isprintable() and len(name.encode()) <= LONGEST_NAME:
        return name
    return f"unfit-name-{hashlib.sha256(name.encode()).hexdigest()[:16]}"


def process(bucket: Any, entry: Entry, scorer: Scorer, folder: Path, predictions_uri: str) -> Outcome:
    """Score an object under `incoming/`, or reject it, or see that it was scored before.

    Parameters
    ----------
    bucket : S3Bucket
    entry : dict
        The object, one of `list_incoming`.
    scorer : Scorer
    folder : Path
        A working folder for the object and its result. It is emptied first.
    predictions_uri : str
        The database of predictions, see `predictions.Database`.

    Raises
    ------
    PredictionsError
        The database of predictions is away. The file stays for the next run.
    StorageError
        The bucket cannot be used, or the object is gone.
    DataError
        The disk of `folder` is full or refuses.
    """
    name = safe_name(entry)
    with translate_s3_errors(bucket.bucket_name, entry["Key"]), empty_folder(folder):
        source = folder / f"source{PurePosixPath(name).suffix.lower()}"
        download(bucket, entry, source)
        try:
            return score_once(bucket, name, source, scorer, predictions_uri)
        except DataError as error:
            return reject(bucket, entry, source, str(error).removeprefix(f"{source}: "))


def score_once(bucket: Any, name: str, source: Path, scorer: Scorer, predictions_uri: str) -> Outcome:
    """Score a file, store its predictions and upload the result, unless this version has scored the same content."""
    if source.suffix not in KINDS:
        raise DataError(f"{source}: its name must be a plain path, not too long, and end in .csv or .parquet.")
    marker = {"sha256": sha256(source), "version": scorer.version}
    known = read_marker(bucket, name)
    if marker.items() <= known.items():
        return Outcome(name, known["rows"], scorer.version, "unchanged")
    target, lines, now = source.with_name("scored"), source.with_name("predictions"), datetime.now(UTC)
    with lines.open("wb") as file:
        writer = PredictionWriter(scorer, now, f"{name} {marker['sha256']} {scorer.version}", file)
        rows = score_file(source, target, writer)
    predictions.insert_file(predictions_uri, lines)
    upload(bucket, name, target, marker | {"rows": rows, "scored_at": writer.scored_at})
    return Outcome(name, rows, scorer.version, "scored")


@dataclass
class PredictionWriter:
    """Scores the rows of one file, chunk by chunk, and writes a prediction for each.

    Attributes
    ----------
    scorer : Scorer
    now : datetime
        The time (UTC) of all its predictions.
    file : str
        Identifies the file and its content: the ids of its predictions follow from it.
    lines : BinaryIO
        Where the predictions are written, as `predictions.insert_file` reads them.
    rows : int
        How many rows it has scored.
    """

    scorer: Scorer
    now: datetime
    file: str
    lines: BinaryIO
    rows: int = 0

    @property
    def scored_at(self) -> str:
        """The time as it stands in a scored file."""
        return self.now.isoformat(timespec="seconds")

    def score(self, wines: pd.DataFrame) -> pd.DataFrame:
        """Score some wines, and return the columns of `ADDED` for them."""
        score, version = self.scorer.score(columns_of(wines)), self.scorer.version
        ids = [str(uuid5(NAMESPACE_URL, f"{self.file} {self.rows + n}")) for n in range(1, len(wines) + 1)]
        self.rows += len(wines)
        rows = zip(ids, wines[FEATURES].to_dict("records"), score.tolist(), strict=True)
        self.lines.write(json_lines(Prediction(name, self.now, version, wine, one) for name, wine, one in rows))
        values = (score, np.rint(score).astype(int), version, self.scored_at, ids)
        return pd.DataFrame(dict(zip(ADDED, values, strict=True)))


def score_file(source: Path, target: Path, writer: PredictionWriter) -> int:
    """Score a file of wine, `CHUNK` rows at once, and return how many wines it has.

    Parameters
    ----------
    source : Path
        A `.csv` or `.parquet` file with the columns of `schema.FEATURES`, and any others. Measurements may be blank.
    target : Path
        Where to write the same rows with the columns of `ADDED`.
    writer : PredictionWriter

    Raises
    ------
    DataError
        One line with all that is wrong with `source`, the first ten in full. What stands in `target` is not whole then.
    """
    file, rows = KINDS[source.suffix](source), 0
    problems, further = {}, 0
    with file.writer(target, ADDED) as write:
        for chunk in file.chunks():
            wines, new = file.parse(chunk)
            problems, more = first_problems(problems | new)
            further += more
            if not problems:
                write(chunk, writer.score(wines))
            rows += len(chunk)
    if problems:
        raise DataError(problem_line(str(source), problems, further))
    if not rows:
        raise DataError(f"{source}: no wines in it. Write it again.")
    return rows


def first_problems(problems: Problems) -> tuple[Problems, int]:
    """Return the first ten problems and how many more there are: a file may have millions."""
    first = dict(sorted(problems.items())[:SHOWN_PROBLEMS])
    return first, len(problems) - len(first)


def download(bucket: Any, entry: Entry, path: Path) -> None:
    """Download an object, whatever its name, a piece at a time."""
    client = bucket.credentials.get_s3_client()
    with path.open("wb") as file:
        shutil.copyfileobj(client.get_object(Bucket=bucket.bucket_name, Key=entry["Key"])["Body"], file)


def read_marker(bucket: Any, name: str) -> dict[str, Any]:
    """Return the content of a scored file's marker; empty if one of the two is missing, or the marker is damaged."""
    names = {entry["Key"].partition(SCORED)[2] for entry in bucket.list_objects(f"{SCORED}{name}")}
    if not {name, f"{name}{MARKER}"} <= names:
        return {}
    with suppress(ValueError):
        return json.loads(bucket.read_path(f"{SCORED}{name}{MARKER}"))
    return {}


def upload(bucket: Any, name: str, scored: Path, marker: dict[str, Any]) -> None:
    """Upload a scored file, then its marker; an earlier marker is emptied first."""
    bucket.write_path(f"{SCORED}{name}{MARKER}", b"{}")
    bucket.upload_from_path(scored, f"{SCORED}{name}")
    bucket.write_path(f"{SCORED}{name}{MARKER}", json.dumps(marker, indent=2).encode())


def reject(bucket: Any, entry: Entry, source: Path, reasons: str) -> Outcome:
    """Move an object to `rejected/`, its reasons first, unless another one has taken its place meanwhile."""
    name, client = safe_name(entry), bucket.credentials.get_s3_client()
    now = client.list_objects_v2(Bucket=bucket.bucket_name, Prefix=entry["Key"]).get("Contents", [])
    if entry not in now:
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
