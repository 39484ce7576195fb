"""The tidy table: a row for each wine, 13 columns, and what each may hold."""

import reprlib
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pandera.pandas as pa

from wine_quality.errors import DataError


@dataclass(frozen=True)
class Measurement:
    """The unit of a column, and the lowest and highest value that wine can physically have."""

    unit: str
    low: float
    high: float


MEASUREMENTS: dict[str, Measurement] = {
    "fixed_acidity": Measurement("g/L tartaric acid", 1, 30),
    "volatile_acidity": Measurement("g/L acetic acid", 0, 5),
    "citric_acid": Measurement("g/L", 0, 5),
    "residual_sugar": Measurement("g/L", 0, 400),
    "chlorides": Measurement("g/L sodium chloride", 0, 3),
    "free_sulfur_dioxide": Measurement("mg/L", 0, 600),
    "total_sulfur_dioxide": Measurement("mg/L", 0, 1000),
    "density": Measurement("g/mL", 0.95, 1.2),
    "pH": Measurement("pH", 2, 5),
    "sulphates": Measurement("g/L potassium sulphate", 0, 5),
    "alcohol": Measurement("% by volume", 5, 25),
}
TYPES = ["red", "white"]
FEATURES = ["type", *MEASUREMENTS]
TARGET = "quality"
WORST, BEST = 0, 10
COLUMNS = [*FEATURES, TARGET]
DTYPES: Any = {"type": "str", **dict.fromkeys(MEASUREMENTS, "float64"), TARGET: "int64"}  # of the tidy table
SHOWN_PROBLEMS = 10

schema = pa.DataFrameSchema(
    {
        "type": pa.Column(str, pa.Check.isin(TYPES, error="not red or white")),
        **{
            name: pa.Column(
                float, pa.Check.in_range(m.low, m.high, error=f"not {m.low:g} to {m.high:g} {m.unit}"), nullable=True
            )
            for name, m in MEASUREMENTS.items()
        },
        "quality": pa.Column(
            float,
            [
                pa.Check.in_range(WORST, BEST, error=f"not {WORST} to {BEST}"),
                pa.Check(lambda column: column % 1 == 0, error="not a whole number"),
            ],
        ),
    },
    strict=True,
    ordered=True,
)

Problems = dict[tuple[int, str], str]


def column_problems(table: pd.DataFrame, columns: list[str]) -> Problems:
    """Return which of the columns are missing or repeated in a table, and what it has besides, as problems of row 1."""
    counts = Counter(table.columns)
    wrong = {
        "missing": ", ".join(name for name in columns if name not in counts),
        "repeated": ", ".join(name for name in columns if counts[name] > 1),
        "unknown": the_first([reprlib.repr(name) for name in counts if name not in columns], ", "),
    }
    return {(1, f"columns {what}"): names for what, names in wrong.items() if names}


def as_numbers(table: pd.DataFrame) -> tuple[pd.DataFrame, Problems]:
    """Turn all columns but `type` into floats, and that into text; return the table and problems by (row, column)."""
    problems, numbers = {}, table.astype({"type": "str"} if "type" in table else {})
    for name in numbers.columns.drop("type", errors="ignore"):
        numbers[name] = pd.Series(pd.to_numeric(table[name], errors="coerce")).astype(float)
        text = table[name].notna() & numbers[name].isna()
        texts = table.loc[text, name].items()
        problems |= {(row, name): f"{reprlib.repr(cell)} is not a number" for row, cell in texts}
    return numbers, problems


def validate(table: pd.DataFrame, where: str, earlier: Problems | None = None) -> pd.DataFrame:
    """Check a table of the 13 `COLUMNS`, of text or numbers, against the schema, and return it tidy.

    In the result `type` is text, the measurements are float64 in the units of `MEASUREMENTS` (nulls allowed), and
    `quality` is int64. Raise `DataError` with all problems, and those of `earlier` checks, in one line: `where`, the
    row by its index, the column, the value and what is wrong with it, for the first ten.
    """
    numbers, problems = check_columns(table, COLUMNS)
    if problems := problems | (earlier or {}):
        raise DataError(problem_line(where, problems))
    return numbers.astype({TARGET: "int64"})


def check_columns(table: pd.DataFrame, columns: list[str]) -> tuple[pd.DataFrame, Problems]:
    """Return the columns of a table in the types of the schema, and all that is wrong with them by (row, column)."""
    known = [name for name in columns if name in table]
    numbers, problems = as_numbers(table.loc[:, ~table.columns.duplicated()][known])
    try:
        schema.select_columns(known).validate(numbers, lazy=True)
    except pa.errors.SchemaErrors as error:
        for case in error.failure_cases.itertuples():
            what = "empty" if case.check == "not_nullable" else f"{reprlib.repr(case.failure_case)} is {case.check}"
            problems.setdefault((case.index, case.column), what)
    return numbers, column_problems(table, columns) | problems


def problem_line(where: str, problems: Problems, further: int = 0) -> str:
    """Return all problems of one file as one line, the first ten in full; `further` are only counted."""
    lines = [f"row {row}, {column}: {what}" for (row, column), what in sorted(problems.items())]
    total = len(lines) + further
    count = "1 problem" if total == 1 else f"{total} problems"
    return f"{where}: {count}: {the_first(lines, '; ', further)}. Fix the file and run again."


def the_first(texts: list[str], separator: str, further: int = 0) -> str:
    """Return the first ten of many as one line that says how many more there are."""
    more = len(texts[SHOWN_PROBLEMS:]) + further
    return separator.join([*texts[:SHOWN_PROBLEMS], *([f"and {more} more"] if more else [])])


def to_matrix(rows: pd.DataFrame) -> np.ndarray:
    """Return rows as float64 of shape (n rows, 12): 1 for red or 0 for white, then the measurements, NaN if blank."""
    return np.column_stack([rows["type"] == "red", rows[list(MEASUREMENTS)]]).astype("float64")


def from_matrix(matrix: np.ndarray) -> pd.DataFrame:
    """Return the table of `FEATURES` of a matrix that `to_matrix` returned."""
    table = pd.DataFrame(matrix[:, 1:], columns=list(MEASUREMENTS))
    table.insert(0, "type", np.where(matrix[:, 0] == 1, "red", "white"))
    return table
