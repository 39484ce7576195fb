"""Read one CSV file of wine into the tidy table, whatever spelling it came in."""

import csv
import reprlib
import stat
from collections.abc import Iterable, Iterator
from itertools import chain, repeat
from pathlib import Path

import pandas as pd

from wine_quality.errors import DataError
from wine_quality.schema import COLUMNS, TYPES, Problems, check_wines

TIDY_NAMES = {name.lower(): name for name in COLUMNS}
INDEX_NAMES = {"", "unnamed:_0", "index"}
NULLS = {"", "NA", "NaN", "nan", "null"}
LONGEST_LINE = 1_000_000  # letters: a line without an end would fill the memory
SEPARATORS = {";": "semicolon", ",": "comma", "\t": "tab", "|": "bar"}


def read_wines(path: Path, wine_type: str | None = None, both_types: bool = True) -> pd.DataFrame:
    """Read a CSV file of wine: `;` or `,`, names with spaces or underscores in any case, an index column or none.

    Parameters
    ----------
    path : Path
        The file.
    wine_type : {"red", "white"}, optional
        The type of every wine in the file. None where the file says it itself.
    both_types : bool
        Whether a file that says it itself must hold both.

    Returns
    -------
    DataFrame of shape (n wines, 13)
        The tidy table of `schema.check_wines`. Its index is the wine's line in the file (the header is line 1).

    Raises
    ------
    DataError
        One line with the file and all that is wrong with it.
    """
    _, rows = csv_rows(path)
    (_, header), *body = rows
    if not body:
        raise DataError(f"{path}: a header and no wines. Get the file again.")
    table, ragged = as_table(header, body)
    table = tidy_columns(table, wine_type)
    return check_wines(table, str(path), found=ragged | type_problems(table, wine_type, both_types))


def csv_rows(path: Path) -> tuple[str, Iterator[tuple[int, list[str]]]]:
    """Return the separator of a CSV, `;` or `,`, and its rows that are not blank: the header first, each with its line.

    The file is read as far as rows are asked for.
    """
    lines = text_lines(path)
    before, header = next(((number, line) for number, line in enumerate(lines) if line.strip()), (0, ""))
    if not header:
        raise DataError(f"{path}: the file is empty. Get it again.")
    if header.lstrip().startswith("<"):
        raise DataError(f"{path}: a web page, not a CSV file. The download went wrong: get it again.")
    separator = found_separator(header, path)
    return separator, numbered_rows(chain(repeat("\n", before), [header], lines), separator, path)


def text_lines(path: Path) -> Iterator[str]:
    """Yield each line of a text file, or say why it cannot be a CSV."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe or a device may never end
            raise DataError(f"{path}: a folder or a device, not a file. Give the CSV file itself.")
        with path.open(encoding="utf-8-sig", newline="") as file:
            while line := file.readline(LONGEST_LINE):
                if "\0" in line:
                    raise UnicodeError
                if len(line) == LONGEST_LINE:
                    raise DataError(f"{path}: a line of a million letters or more. Give a CSV with a row a wine.")
                yield line
    except FileNotFoundError:
        raise DataError(f"{path}: no such file. Check the name, or set WINE_DATA to another source.") from None
    except PermissionError:
        raise DataError(f"{path}: you may not read it. Give yourself read permission (chmod u+r).") from None
    except UnicodeError:
        raise DataError(f"{path}: not a text file. Give the CSV itself, unpacked and saved as UTF-8.") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error}). Give another file.") from None


def found_separator(header: str, path: Path) -> str:
    """Return the separator of the header, `;` or `,`."""
    separator = max(SEPARATORS, key=header.count)
    if not header.count(separator):
        raise DataError(f"{path}: row 1 has no separator. The file must be a CSV with ';' or ',' between columns.")
    if separator not in ";,":
        raise DataError(f"{path}: columns stand apart by a {SEPARATORS[separator]}. Save the file with ';' or ','.")
    return separator


def numbered_rows(lines: Iterable[str], separator: str, path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield each row of the CSV that is not blank, with the line it ends on."""
    reader = csv.reader(lines, delimiter=separator, strict=True)
    try:
        for row in reader:
            if row:
                yield reader.line_num, row
    except csv.Error as error:
        raise DataError(
            f"{path}: row {reader.line_num}: not a readable CSV ({error}). Mend it and run again."
        ) from None


def as_table(header: list[str], body: list[tuple[int, list[str]]]) -> tuple[pd.DataFrame, Problems]:
    """Return rows as text, empty cells as nulls, the index being the line of each row; and the ragged ones."""
    ragged = {
        (line, "cells"): f"{len(row)}, but the header has {len(header)}"
        for line, row in body
        if len(row) != len(header)
    }
    rows = {line: [cell_text(cell) for cell in row] for line, row in body if len(row) == len(header)}
    return pd.DataFrame(list(rows.values()), columns=header, index=list(rows), dtype="str"), ragged


def cell_text(cell: str) -> str | None:
    """Return a cell without the space around it, None where it stands for nothing."""
    return None if (text := cell.strip()) in NULLS else text


def tidy_name(name: str) -> str:
    """Return the name of a column as the tidy table has it: in small letters but for pH, with underscores."""
    plain = name.strip().lower().replace(" ", "_")
    return TIDY_NAMES.get(plain, plain)


def tidy_columns(table: pd.DataFrame, wine_type: str | None) -> pd.DataFrame:
    """Return the table with the tidy names, without its index column, with its type in small letters."""
    names = [tidy_name(name) for name in table.columns]
    table = table.set_axis(names, axis="columns").loc[:, [name not in INDEX_NAMES for name in names]]
    if "type" in table:
        # a column of nulls alone would lose its type of text
        table["type"] = table["type"].map(lambda cell: str(cell).lower(), na_action="ignore").astype("str")
    elif wine_type is not None:
        table = table.assign(type=wine_type)
    return table


def type_problems(table: pd.DataFrame, wine_type: str | None, both_types: bool) -> Problems:
    """Return the wines of another type than the file's, or the type that is missing in a file that must hold both."""
    if list(table.columns).count("type") != 1:
        return {}
    types = table["type"]
    if wine_type is not None:
        others = types[types.notna() & (types != wine_type)]
        return {(row, "type"): f"{reprlib.repr(cell)} in a file of {wine_type} wine" for row, cell in others.items()}
    missing = " or ".join(name for name in TYPES if both_types and name not in set(types))
    return {(1, "type"): f"no wine is {missing}, and the model needs both types"} if missing else {}
