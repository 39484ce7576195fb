"""The tidy table: one row per sample, 13 columns, and the values that each column allows."""

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
    """The unit of a column, and its lowest and highest physically plausible value."""

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
TYPE, TYPES = "type", ["red", "white"]  # the one category column, and what it may hold
FEATURES = [TYPE, *MEASUREMENTS]
TARGET = "quality"
WORST, BEST = 0, 10
COLUMNS = [*FEATURES, TARGET]
DTYPES: Any = {TYPE: "str", **dict.fromkeys(MEASUREMENTS, "float64"), TARGET: "int64"}  # of the tidy table
SHOWN_PROBLEMS = 10

schema = pa.DataFrameSchema(
    {
        TYPE: pa.Column(str, pa.Check.isin(TYPES, error=f"not {' or '.join(TYPES)}")),
        **{
            name: pa.Column(
                float, pa.Check.in_range(m.low, m.high, error=f"not {m.low:g} to {m.high:g} {m.unit}"), nullable=True
            )
            for name, m in MEASUREMENTS.items()
        },
        TARGET: pa.Column(
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
    """Return the missing, repeated and unknown columns of a table, as problems of row 1."""
    counts = Counter(table.columns)
    wrong = {
        "missing": ", ".join(name for name in columns if name not in counts),
        "repeated": ", ".join(name for name in columns if counts[name] > 1),
        "unknown": the_first([reprlib.repr(name) for name in counts if name not in columns], ", "),
    }
    return {(1, f"columns {what}"): names for what, names in wrong.items() if names}


def as_numbers(table: pd.DataFrame) -> tuple[pd.DataFrame, Problems]:
    """Convert `type` to text and all other columns to floats; return the table and the problems by (row, column)."""
    problems, numbers = {}, table.astype({TYPE: "str"} if TYPE in table else {})
    for name in numbers.columns.drop(TYPE, errors="ignore"):
        numbers[name] = pd.Series(pd.to_numeric(table[name], errors="coerce")).astype(float)
        text = table[name].notna() & numbers[name].isna()
        texts = table.loc[text, name].items()
        problems |= {(row, name): f"{reprlib.repr(cell)} is not a number" for row, cell in texts}
    return numbers, problems


def validate(table: pd.DataFrame, where: str, earlier: Problems | None = None) -> pd.DataFrame:
    """Check a table of the 13 `COLUMNS`, as text or numbers, against the schema, and return it tidy.

    In the result, `type` is text, the measurements are float64 in the units of `MEASUREMENTS` (nulls allowed), and
    `quality` is int64. Raise `DataError` with all problems, including those of `earlier` checks, in one line. It
    starts with `where`; the first ten problems give the row's index, the column, the value and what is wrong with it.
    """
    numbers, problems = check_columns(table, COLUMNS)
    if problems := problems | (earlier or {}):
        raise DataError(problem_line(where, problems))
    return numbers.astype({TARGET: "int64"})


def check_columns(table: pd.DataFrame, columns: list[str]) -> tuple[pd.DataFrame, Problems]:
    """Return the columns of a table in the schema's types, and their problems by (row, column)."""
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
    """Return all problems of one file as one line: the first ten in full, the others and `further` as a count."""
    lines = [f"row {row}, {column}: {what}" for (row, column), what in sorted(problems.items())]
    total = len(lines) + further
    count = "1 problem" if total == 1 else f"{total} problems"
    return f"{where}: {count}: {the_first(lines, '; ', further)}. Fix the file and run again."


def the_first(texts: list[str], separator: str, further: int = 0) -> str:
    """Join the first ten texts, and say how many more there are."""
    more = len(texts[SHOWN_PROBLEMS:]) + further
    return separator.join([*texts[:SHOWN_PROBLEMS], *([f"and {more} more"] if more else [])])


def to_matrix(rows: pd.DataFrame) -> np.ndarray:
    """Return rows as float64 of shape (n rows, 12): 1 for red or 0 for white, then the measurements, NaN if missing."""
    return np.column_stack([rows[TYPE] == TYPES[0], rows[list(MEASUREMENTS)]]).astype("float64")


def from_matrix(matrix: np.ndarray) -> pd.DataFrame:
    """Return a matrix made by `to_matrix` as a table of `FEATURES`."""
    table = pd.DataFrame(matrix[:, 1:], columns=list(MEASUREMENTS))
    table.insert(0, TYPE, np.where(matrix[:, 0] == 1, *TYPES))
    return table
