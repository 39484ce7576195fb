"""Read one CSV file of wine into the tidy table, whatever spelling it came in."""

import csv
import io
from collections import Counter
from pathlib import Path

import pandas as pd

from wine_quality.errors import DataError
from wine_quality.schema import COLUMNS, TYPES, check_wines

TIDY_NAMES = {name.lower(): name for name in COLUMNS}
INDEX_NAMES = {"", "unnamed:_0", "index"}
SEPARATORS = {";": "semicolon", ",": "comma", "\t": "tab", "|": "bar"}


def read_wines(path: Path, wine_type: str | None = None) -> pd.DataFrame:
    """Read a CSV file of wine: `;` or `,`, names with spaces or underscores in any case, an index column or none.

    Parameters
    ----------
    path : Path
        The file.
    wine_type : {"red", "white"}, optional
        The type of every wine in the file. None where the file says it itself and must hold both.

    Returns
    -------
    DataFrame of shape (n wines, 13)
        The tidy table of `schema.check_wines`. Its index is the wine's line in the file (the header is line 1).

    Raises
    ------
    DataError
        One line with the file and all that is wrong with it.
    """
    text = file_text(path)
    separator = found_separator(text, path)
    wines = check_wines(tidy_columns(parsed(text, separator, path), wine_type, path), str(path))
    if wine_type is None and (missing := set(TYPES) - set(wines["type"])):
        raise DataError(f"{path}: no wine of type {missing.pop()}: the model needs both. Add them and run again.")
    return wines


def file_text(path: Path) -> str:
    """Return what stands in a text file, or say why it cannot be a CSV."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path}: no such file. Check the name, or set WINE_DATA to another source.") from None
    except IsADirectoryError:
        raise DataError(f"{path}: a folder, not a file. Give the CSV file in it.") from None
    except PermissionError:
        raise DataError(f"{path}: you may not read it. Give yourself read permission (chmod u+r).") from None
    if not content.strip():
        raise DataError(f"{path}: the file is empty. Get it again.")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise DataError(f"{path}: not a text file. Give the CSV itself, unpacked and saved as UTF-8.")
    if text.lstrip().startswith("<"):
        raise DataError(f"{path}: a web page, not a CSV file. The download went wrong: get it again.")
    return text


def found_separator(text: str, path: Path) -> str:
    """Return the separator of the header, `;` or `,`."""
    header = text.lstrip().splitlines()[0]
    separator = max(SEPARATORS, key=header.count)
    if not header.count(separator):
        raise DataError(f"{path}: row 1 has no separator. The file must be a CSV with ';' or ',' between columns.")
    if separator not in ";,":
        raise DataError(f"{path}: columns stand apart by a {SEPARATORS[separator]}. Save the file with ';' or ','.")
    return separator


def parsed(text: str, separator: str, path: Path) -> pd.DataFrame:
    """Return the file's cells as text, empty ones as nulls, the index being the line of each row."""
    try:
        rows = [(line, row) for line, row in numbered_rows(text, separator) if row]
    except csv.Error as error:
        raise DataError(f"{path}: not a readable CSV ({error}). Get it again.") from None
    (_, header), *body = rows
    if not body:
        raise DataError(f"{path}: a header and no wines. Get the file again.")
    ragged = [f"row {line} has {len(row)} cells" for line, row in body if len(row) != len(header)]
    if ragged:
        more = f" and {len(ragged) - 3} more" if len(ragged) > 3 else ""
        raise DataError(f"{path}: the header has {len(header)} columns, but {', '.join(ragged[:3])}{more}. Mend them.")
    table = pd.DataFrame([row for _, row in body], columns=header, index=[line for line, _ in body], dtype="str")
    stripped = table.apply(lambda column: column.str.strip())
    return stripped.mask(stripped.isin(["", "NA", "NaN", "nan", "null"]))


def numbered_rows(text: str, separator: str):
    """Yield each row of the CSV with the line it ends on."""
    reader = csv.reader(io.StringIO(text), delimiter=separator, strict=True)
    for row in reader:
        yield reader.line_num, row


def tidy_columns(table: pd.DataFrame, wine_type: str | None, path: Path) -> pd.DataFrame:
    """Return the table with the tidy names in their order, or list every column that is wrong."""
    spelled = table.columns.str.strip().str.lower().str.replace(" ", "_")
    table = table.loc[:, ~spelled.isin(INDEX_NAMES)]
    table.columns = [TIDY_NAMES.get(name, name) for name in spelled if name not in INDEX_NAMES]
    if wine_type is not None and "type" not in table.columns:
        table = table.assign(type=wine_type)
    counts = Counter(table.columns)
    wrong = {
        "missing": [name for name in COLUMNS if name not in counts],
        "unknown": [name for name in counts if name not in COLUMNS],
        "repeated": [name for name in counts if counts[name] > 1],
    }
    if any(wrong.values()):
        found = "; ".join(f"{what}: {', '.join(names)}" for what, names in wrong.items() if names)
        raise DataError(f"{path}: row 1, columns {found}. The columns must be {', '.join(COLUMNS)}.")
    if wine_type is not None and (other := set(table["type"].str.lower()) - {wine_type}):
        raise DataError(f"{path}: holds wines of type {other.pop()!r}, not only {wine_type}. Mend the file.")
    return table[COLUMNS].assign(type=table["type"].str.lower())
