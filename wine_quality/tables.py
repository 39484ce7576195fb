"""Read a table, CSV or Parquet, into the tidy table.

Column names, null marks, separators and decimal commas may be spelt in any way that can mean only one thing; a spelling
whose meaning would be a guess (`is_red`, a type of 0 or 1) is refused. `table_files` and `parts` read batches by the
same rules, except that they decide on decimal commas batch by batch.
"""

import csv
import gzip
import io
import re
import reprlib
import stat
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import chain, count, repeat
from pathlib import Path
from typing import Any, BinaryIO

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from wine_quality.errors import DataError
from wine_quality.schema import COLUMNS, DTYPES, TYPE, TYPES, Problems, validate

PARQUET = ".parquet"
TABLE_ENDINGS = (".csv", ".tsv", PARQUET)  # of files that may hold a table
TIDY_NAMES = {name.lower(): name for name in COLUMNS} | dict.fromkeys(("color", "colour"), TYPE)
# pandas, R, readr and Parquet each name an index column in their own way
INDEX_NAMES = re.compile(r"|index|id|x(_\d+)?|unnamed.*|_\d+|_index_level_\d+_")
NULLS = {"", "na", "nan", "null", "none", "n/a", "#n/a", "<na>", r"\n"}
DECIMAL_COMMA = r"^([+-]?\d*),(\d+(?:[eE][+-]?\d+)?)$"
LONGEST_LINE = 1_000_000  # letters: a line without an end would fill the memory
SEPARATORS = {";": "semicolon", ",": "comma", "\t": "tab", "|": "bar"}
SEPARATOR_LINE = re.compile(r'"?sep=(.)"?', re.IGNORECASE)  # what Excel puts above the header


def read_table(path: Path, wine_type: str | None = None, both_types: bool = True) -> pd.DataFrame:
    """Read a CSV, packed by gzip or not, or a Parquet file into the tidy table of `schema.validate`.

    `wine_type` is the type of every row, None if the file has a column for it; `both_types` says whether that must hold
    both. The index is the row's line in the file (the header is line 1); in Parquet the first row is 1. Raise
    `DataError` with all that is wrong in one line.
    """
    if path.suffix.lower() == PARQUET:
        with open_file(path) as file, translate_parquet_errors(path):
            table = pq.ParquetFile(file).read()
        rows, ragged = parquet_rows(table, range(1, len(table) + 1)), {}
    else:
        (_, header), *body = csv_rows(path)[1]
        rows, ragged = as_table(header, body)
    if not len(rows) and not ragged:
        raise DataError(f"{path}: a header but no rows. Get the file again.")
    table = tidy_columns(rows, wine_type)
    problems = ragged | repeated_columns(rows.columns, COLUMNS) | type_problems(table, wine_type, both_types)
    return validate(table, str(path), problems)


def read_back(path: Path) -> pd.DataFrame:
    """Read a CSV that was written from a tidy table, with the same types and values; it may have other columns, too.

    pandas alone would guess the types, and turn a category such as `"1"` into a number.
    """
    return pd.read_csv(path, dtype=DTYPES, float_precision="round_trip")


def column_names(path: Path) -> set[str]:
    """Return the tidy names of the columns of a table, reading only its header; raise `DataError` if it is none."""
    if path.suffix.lower() == PARQUET:
        with open_file(path) as file, translate_parquet_errors(path):
            return {tidy_name(name) for name in pq.read_schema(file).names}
    _, header = next(csv_rows(path)[1])
    return {tidy_name(name) for name in header}


def csv_rows(path: Path) -> tuple[str, Iterator[tuple[int, list[str]]]]:
    """Return the separator of a CSV and an iterator over its rows that are not blank, the header first, with lines."""
    lines = text_lines(path)
    before, header = first_line(lines, path)
    separator = None
    if declared := SEPARATOR_LINE.fullmatch(header.strip("\r\n")):
        separator = declared[1]
        blank, header = first_line(lines, path)
        before += 1 + blank
    separator = separator or max(SEPARATORS, key=header.count)
    if not header.count(separator):
        raise DataError(f"{path}: row 1 has no separator. The file must be a CSV with ';' or ',' between columns.")
    if separator not in ";,\t":
        name = SEPARATORS.get(separator, separator)
        raise DataError(f"{path}: columns are separated by a {name}. Save the file with ';' or ','.")
    return separator, numbered_rows(chain(repeat("\n", before), [header], lines), separator, path)


def first_line(lines: Iterator[str], path: Path) -> tuple[int, str]:
    """Return the next line that is not blank, and how many blank ones precede it."""
    before, line = next(((number, line) for number, line in enumerate(lines) if line.strip()), (0, ""))
    if not line:
        raise DataError(f"{path}: the file is empty. Get it again.")
    if line.lstrip().startswith("<"):
        raise DataError(f"{path}: a web page, not a CSV file. Download it again.")
    if line.startswith("version https://git-lfs"):
        raise DataError(f"{path}: a Git LFS pointer, not the file itself. Get the file: git lfs pull.")
    return before, line


def text_lines(path: Path) -> Iterator[str]:
    """Yield each line of a text file, packed by gzip or not, or raise `DataError` if it cannot be a CSV."""
    with open_file(path) as file:
        plain = gzip.GzipFile(fileobj=file) if path.suffix.lower() == ".gz" else file
        text = io.TextIOWrapper(plain, encoding="utf-8-sig", newline="")
        for number in count(1):
            line = text.readline(LONGEST_LINE)
            if not line:
                return
            if "\0" in line:
                raise UnicodeError
            if len(line) == LONGEST_LINE:
                raise DataError(f"{path}: a line of a million characters or more. Give a CSV with one row per sample.")
            if line.startswith(("<<<<<<< ", ">>>>>>> ")):
                raise DataError(f"{path}: row {number}: a Git merge conflict. Resolve it and run again.")
            yield line


@contextmanager
def open_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file to read, and turn what is wrong with it into a `DataError` that names it."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe or a device may never end
            raise DataError(f"{path}: a folder or a device, not a file. Give the CSV file itself.")
        with path.open("rb") as file:
            yield file
    except FileNotFoundError:
        raise DataError(f"{path}: no such file. Check the name, or set WINE_DATA to another source.") from None
    except PermissionError:
        raise DataError(f"{path}: you may not read it. Give yourself read permission (chmod u+r).") from None
    except UnicodeError:
        raise DataError(f"{path}: not a text file. Give the CSV itself, unpacked and saved as UTF-8.") from None
    except (EOFError, gzip.BadGzipFile, zlib.error):
        raise DataError(f"{path}: not a whole gzip file. Get it again.") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error}). Give another file.") from None


def numbered_rows(lines: Iterable[str], separator: str, path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield each row of a CSV that is not empty, with the line it ends on."""
    reader = csv.reader(lines, delimiter=separator, strict=True)
    try:
        for row in reader:
            if any(map(str.strip, row)):
                yield reader.line_num, row
    except csv.Error as error:
        raise DataError(f"{path}: row {reader.line_num}: not a readable CSV ({error}). Fix it and run again.") from None


def as_table(header: list[str], body: list[tuple[int, list[str]]]) -> tuple[pd.DataFrame, Problems]:
    """Return rows as text, empty cells as nulls, the index being the line of each row; and the ragged ones."""
    rows, ragged = {}, {}
    for line, row in body:
        if len(row) == len(header):
            rows[line] = [cell_text(cell) for cell in row]
        else:
            ragged[line, "cells"] = f"{len(row)}, but the header has {len(header)}"
    return pd.DataFrame(list(rows.values()), columns=header, index=list(rows), dtype="str"), ragged


def parquet_rows(chunk: pa.Table | pa.RecordBatch, rows: range) -> pd.DataFrame:
    """Return rows of Parquet with their columns as numbers or as text, and `rows` as the index."""
    columns = {number: numbers_or_text(column) for number, column in enumerate(chunk.columns)}
    return pd.DataFrame(columns, index=rows).rename(columns=dict(enumerate(chunk.schema.names)))


def numbers_or_text(column: pa.Array | pa.ChunkedArray) -> Any:
    """Return a column of numbers as float64, and any other as text, with nulls where a CSV has them."""
    kind = column.type
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return column.cast(pa.float64(), safe=False).to_pandas().array
    try:
        return map_distinct(column.cast(pa.string()).to_pandas().astype("str"), cell_text).array
    except pa.ArrowException:  # such as lists: the schema then refuses the name of the type
        return [str(kind)] * len(column)


@contextmanager
def translate_parquet_errors(path: Path | str) -> Iterator[None]:
    """Turn an error of Arrow into a `DataError` that names the file."""
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a readable Parquet file ({error}). Write it again.") from None


def cell_text(cell: str) -> str | None:
    """Return a cell without the space around it, None if it is a null mark."""
    text = cell.strip()
    return None if text.lower() in NULLS else text


def map_distinct(column: pd.Series, change: Callable[[str], str | None]) -> pd.Series:
    """Return a column of text with `change` applied to each distinct text once; nulls stay null."""
    codes, distinct = pd.factorize(column)
    changed: Any = pd.array([change(text) for text in distinct], dtype="str")
    return pd.Series(changed.take(codes, allow_fill=True), index=column.index)


def tidy_name(name: str) -> str:
    """Return the name of a column as the tidy table has it: in lower case but for pH, with underscores."""
    plain = re.sub(r"[\s._-]+", "_", name.strip().lower())
    return TIDY_NAMES.get(plain, plain)


def tidy_columns(table: pd.DataFrame, wine_type: str | None) -> pd.DataFrame:
    """Return the table with tidy names and decimal points, without its index columns, its type in lower case."""
    names = [tidy_name(name) for name in table.columns]
    is_data = [INDEX_NAMES.fullmatch(name) is None for name in names]
    table = with_decimal_points(table.set_axis(names, axis="columns").loc[:, is_data])
    if TYPE not in table:
        return table if wine_type is None else table.assign(**{TYPE: wine_type})
    for place, name in enumerate(table.columns):
        if name == TYPE:  # a file may repeat the column
            table.isetitem(place, map_distinct(table.iloc[:, place].astype("str"), str.lower))
    return table


def with_decimal_points(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table with decimal points for commas, unless it has points too: a comma may mean thousands then."""
    numbers = [name for name in COLUMNS if name != TYPE and list(table.columns).count(name) == 1]
    texts = [name for name in numbers if pd.api.types.is_string_dtype(table[name])]
    if any(table[name].str.contains(".", regex=False).any() for name in texts):
        return table
    return table.assign(**{name: table[name].str.replace(DECIMAL_COMMA, r"\1.\2", regex=True) for name in texts})


def repeated_columns(header: Iterable[str], columns: list[str]) -> Problems:
    """Return which of the columns a header names more than once, each with its names there."""
    names: dict[str, list[str]] = {}
    for name in header:
        names.setdefault(tidy_name(name), []).append(name)
    twice = [f"{tidy} ({', '.join(map(repr, raw))})" for tidy, raw in names.items() if tidy in columns and raw[1:]]
    return {(1, "columns repeated"): ", ".join(twice)} if twice else {}


def type_problems(table: pd.DataFrame, wine_type: str | None, both_types: bool) -> Problems:
    """Return the rows of another type than the file's, or the type that is missing in a file that must hold both."""
    if list(table.columns).count(TYPE) != 1:
        return {}
    types = table[TYPE]
    if wine_type is not None:
        others = types.loc[types.notna() & (types != wine_type)].to_dict()
        return {(row, TYPE): f"{reprlib.repr(cell)} in a file of {wine_type} wine" for row, cell in others.items()}
    missing = " or ".join(name for name in TYPES if both_types and name not in set(types))
    return {(1, TYPE): f"no wine is {missing}, and the model needs both types"} if missing else {}
