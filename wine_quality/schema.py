"""The tidy table: one row a wine, 13 columns, and what each may hold."""

from dataclasses import dataclass

import pandas as pd
import pandera.pandas as pa

from wine_quality.errors import DataError


@dataclass(frozen=True)
class Measurement:
    """What a column measures: its unit, and the lowest and highest value that wine can physically have."""

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
COLUMNS = [*FEATURES, TARGET]
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
                pa.Check.in_range(0, 10, error="not 0 to 10"),
                pa.Check(lambda column: column % 1 == 0, error="not a whole number"),
            ],
        ),
    },
    strict=True,
    ordered=True,
)


Problems = dict[tuple[int, str], str]


def as_numbers(wines: pd.DataFrame) -> tuple[pd.DataFrame, Problems]:
    """Turn the number columns of a table of text into floats; return it and what is wrong by (row, column)."""
    problems, numbers = {}, wines.copy()
    for name in [*MEASUREMENTS, TARGET]:
        numbers[name] = pd.to_numeric(wines[name], errors="coerce").astype(float)
        text = wines[name].notna() & numbers[name].isna()
        problems |= {(row, name): f"{cell!r} is not a number" for row, cell in wines.loc[text, name].items()}
    return numbers, problems


def check_wines(wines: pd.DataFrame, where: str) -> pd.DataFrame:
    """Check a table against the schema, all problems at once, and return it tidy.

    Parameters
    ----------
    wines : DataFrame of shape (n wines, 13)
        The columns of `COLUMNS`, of text or numbers. The index is what the message calls a row.
    where : str
        What to call the table in a message, usually its file.

    Returns
    -------
    DataFrame of shape (n wines, 13)
        `type` as text, measurements as float64 in the units of `MEASUREMENTS` (nulls allowed), `quality` as int64.

    Raises
    ------
    DataError
        One line with the row, the column, the value and what is wrong with it, for the first ten problems.
    """
    numbers, problems = as_numbers(wines)
    try:
        schema.validate(numbers, lazy=True)
    except pa.errors.SchemaErrors as error:
        for case in error.failure_cases.itertuples():
            what = "empty" if case.check == "not_nullable" else f"{case.failure_case!r} is {case.check}"
            problems.setdefault((case.index, case.column), what)
    if problems:
        raise DataError(problem_line(where, problems))
    return numbers.astype({TARGET: "int64"})


def problem_line(where: str, problems: Problems) -> str:
    """Return all problems of one file as one line, the first ten in full."""
    lines = [f"row {row}, {column}: {what}" for (row, column), what in sorted(problems.items())]
    more = len(lines) - SHOWN_PROBLEMS
    shown = "; ".join(lines[:SHOWN_PROBLEMS]) + (f"; and {more} more" if more > 0 else "")
    count = "1 problem" if len(lines) == 1 else f"{len(lines)} problems"
    return f"{where}: {count}: {shown}. Mend the file and run again."
