"""A dataset of many rows: a folder of Parquet parts, on this machine or in a bucket, read in batches.

The parts are the files named `part-*.parquet`, in the order of their names. The address of the folder is a path or
`s3://bucket/prefix`; the environment then gives the S3 server and the keys (`AWS_ENDPOINT_URL_S3` and so on).
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import boto3
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from botocore.config import Config

from wine_quality.config import ROOT
from wine_quality.errors import DataError
from wine_quality.files import translate_disk_errors
from wine_quality.schema import COLUMNS, SHOWN_PROBLEMS, TARGET, Problems, as_numbers, check_columns, problem_line
from wine_quality.storage import translate_s3_errors
from wine_quality.table_files import BUFFER
from wine_quality.tables import (
    open_file,
    parquet_rows,
    repeated_columns,
    tidy_columns,
    translate_parquet_errors,
)

NAMES = "part-*.parquet"
BATCH = 50_000  # rows
SYNTHETIC = b"wine_quality.synthetic"  # a metadata key of parts whose rows are synthetic
CLIENT = Config(
    connect_timeout=3,
    read_timeout=30,
    retries={"total_max_attempts": 2},
    request_checksum_calculation="when_required",  # servers other than Amazon's may refuse the CRC headers
    response_checksum_validation="when_required",
)


def list_parts(address: str) -> list[str]:
    """Return the addresses of the parts of a dataset, sorted by name.

    Raise `DataError` if there are none, `StorageError` if the bucket can't be read.
    """
    folder = ROOT / Path(address).expanduser()
    parts = in_bucket(address) if address.startswith("s3://") else sorted(map(str, folder.glob(NAMES)))
    if not parts:
        raise DataError(
            f"{address}: contains no {NAMES}. Choose a folder of Parquet parts, or generate one: make rows."
        )
    return parts


def in_bucket(address: str) -> list[str]:
    """Return the addresses of the parts under a prefix of a bucket."""
    bucket, folder = bucket_and_key(address)
    prefix = f"{folder.rstrip('/')}/" if folder else ""
    with translate_s3_errors(bucket):
        pages = s3().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        keys = [entry["Key"] for page in pages for entry in page.get("Contents", [])]
    names = [key for key in keys if Path(key).match(NAMES) and "/" not in key[len(prefix) :]]
    return [f"s3://{bucket}/{key}" for key in sorted(names)]


def bucket_and_key(address: str) -> tuple[str, str]:
    """Return the bucket and the key of an address such as `s3://bucket/folder/part-0.parquet`."""
    bucket, _, key = address.removeprefix("s3://").partition("/")
    return bucket, key


def s3() -> Any:
    """Return a client for the S3 server that is set in the environment."""
    return boto3.Session().client("s3", config=CLIENT)


@contextmanager
def local_copy(address: str) -> Iterator[Path]:
    """Yield a local path of a part; a part in a bucket is downloaded, and deleted after the block."""
    if not address.startswith("s3://"):
        yield Path(address)
        return
    bucket, key = bucket_and_key(address)
    with tempfile.TemporaryDirectory(prefix="wine-part-") as folder:
        path = Path(folder) / Path(key).name
        with translate_s3_errors(bucket, key), translate_disk_errors(path):
            s3().download_file(bucket, key, str(path))
        yield path


def read_batches(part: str, checked: bool = False, path: Path | None = None) -> Iterator[pd.DataFrame]:
    """Yield the rows of a part as tidy tables of up to 50,000 rows, whose index is the row number in the part, from 1.

    Unless the part was `checked` before, raise `DataError` after the last batch if it has problems, in one line that
    lists them. Raise `StorageError` if the part is in a bucket that can't be read; `path` is a local copy of it, if
    there is one.
    """
    problems: Problems = {}
    further, start = 0, 1
    for batch in arrow_batches(part, path):
        rows = parquet_rows(batch, range(start, start + len(batch)))
        start += len(batch)
        table = tidy_columns(rows, None)
        if checked:
            numbers, _ = as_numbers(table.reindex(columns=COLUMNS))
            yield numbers.astype({TARGET: "int64"})
            continue
        table, found = check_columns(table, COLUMNS)
        new = sorted((found | repeated_columns(rows.columns, COLUMNS)).items() - problems.items())
        shown = dict(new[: SHOWN_PROBLEMS - len(problems)])
        problems |= shown
        further += len(new) - len(shown)
        if not problems:
            yield table.astype({TARGET: "int64"})
    if problems:
        raise DataError(problem_line(part, problems, further))
    if start == 1:
        raise DataError(f"{part}: has columns but no rows. Delete it, or write it again.")


def arrow_batches(part: str, copy: Path | None) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a part as they are in its file, read from a local copy if there is one."""
    place = nullcontext(copy) if copy else local_copy(part)
    with place as path, open_file(path) as file, translate_parquet_errors(part):
        yield from pq.ParquetFile(file, buffer_size=BUFFER).iter_batches(BATCH)


def is_synthetic(path: Path) -> bool:
    """Return whether the rows of a Parquet file are synthetic, as `make rows` marks them in the file."""
    return SYNTHETIC in (pq.read_metadata(path).metadata or {})
