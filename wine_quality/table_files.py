"""Tables of any size, CSV or Parquet: read in chunks, and written again with further columns."""

import csv
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from wine_quality import tables
from wine_quality.schema import FEATURES, Problems, check_columns

CHUNK = 10_000  # rows
BUFFER = 1 << 20  # bytes of each column of a Parquet file that are read at once; by itself it takes a whole row group
GIVEN = "given_"  # before the name of a column that has the name of an added one

Writer = Callable[[Any, pd.DataFrame], None]


class CsvFile:
    """A CSV as `tables.csv_rows` reads it."""

    def __init__(self, path: Path) -> None:
        self.separator, self.rows = tables.csv_rows(path)
        _, self.header = next(self.rows)

    def chunks(self) -> Iterator[list[tuple[int, list[str]]]]:
        """Yield the rows as they stand in the file, each with its line."""
        while chunk := list(islice(self.rows, CHUNK)):
            yield chunk

    def parse(self, chunk: list[tuple[int, list[str]]]) -> tuple[pd.DataFrame, Problems]:
        """Return the features of a chunk as the schema wants them, and all that is wrong by (line, column)."""
        table, ragged = tables.as_table(self.header, chunk)
        features, problems = parse_features(table)
        return features, problems | ragged

    @contextmanager
    def writer(self, path: Path, added: dict[str, pa.DataType]) -> Iterator[Writer]:
        """Yield a function that writes a chunk, and a frame with the added columns, to a CSV of the same kind."""

        def write(chunk: list[tuple[int, list[str]]], more: pd.DataFrame) -> None:
            cells = more.itertuples(index=False, name=None)
            lines.writerows([*row, *new] for (_, row), new in zip(chunk, cells, strict=True))

        with path.open("w", encoding="utf-8", newline="") as file:
            lines = csv.writer(file, delimiter=self.separator, lineterminator="\n")
            lines.writerow([*free_names(self.header, added), *added])
            yield write


class ParquetFile:
    """A Parquet file; its first row is row 1."""

    def __init__(self, path: Path) -> None:
        self.path, self.rows = path, 0
        with tables.translate_parquet_errors(path):
            self.file = pq.ParquetFile(path, buffer_size=BUFFER)

    def chunks(self) -> Iterator[pa.RecordBatch]:
        """Yield the rows as they stand in the file."""
        with tables.translate_parquet_errors(self.path), self.file:
            yield from self.file.iter_batches(CHUNK)

    def parse(self, chunk: pa.RecordBatch) -> tuple[pd.DataFrame, Problems]:
        """Return the features of a chunk as the schema wants them, and all that is wrong by (row, column)."""
        features = [n for n, name in enumerate(chunk.schema.names) if tables.tidy_name(name) in FEATURES]
        rows = range(self.rows + 1, self.rows + len(chunk) + 1)
        self.rows += len(chunk)
        return parse_features(tables.parquet_rows(chunk.select(features), rows))

    @contextmanager
    def writer(self, path: Path, added: dict[str, pa.DataType]) -> Iterator[Writer]:
        """Yield a function that writes a chunk, and a frame with the added columns, to a Parquet file."""
        old, new = self.file.schema_arrow, pa.schema(list(added.items()))
        renamed = [field.with_name(name) for field, name in zip(old, free_names(old.names, added), strict=True)]
        schema = pa.schema([*renamed, *new], metadata=old.metadata)

        def write(chunk: pa.RecordBatch, more: pd.DataFrame) -> None:
            cells = pa.RecordBatch.from_pandas(more, schema=new, preserve_index=False)
            file.write_batch(pa.RecordBatch.from_arrays([*chunk.columns, *cells.columns], schema=schema))

        with pq.ParquetWriter(path, schema) as file:
            yield write


KINDS = {".csv": CsvFile, ".parquet": ParquetFile}


def parse_features(table: pd.DataFrame) -> tuple[pd.DataFrame, Problems]:
    """Return the features of a table, which may have other columns, and all that is wrong with them."""
    repeated = tables.repeated_columns(table.columns, FEATURES)
    table = tables.tidy_columns(table, None)
    features, problems = check_columns(table.loc[:, table.columns.isin(FEATURES)], FEATURES)
    return features, problems | repeated


def free_names(names: list[str], added: dict[str, pa.DataType]) -> list[str]:
    """Return the names of columns, with the prefix `given_` if a column of that name is added; no two are the same."""
    taken, free = {*names, *added}, []
    for name in names:
        if name in added:
            while name in taken:
                name = f"{GIVEN}{name}"
            taken.add(name)
        free.append(name)
    return free
