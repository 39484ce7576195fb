"""Data drift: how the rows of a week differ from those that the model was trained on. Evidently does the statistics.

A measurement is compared by Kolmogorov and Smirnov's test, within each colour: the largest gap between the two
cumulative distributions, and the chance (p-value) that two samples of one population lie as far apart. The type is
compared by the distance of Jensen and Shannon (the square root of the divergence of Lin, 1991, IEEE Transactions on
Information Theory 37(1), 145-151): 0 if the shares of red are the same, 0.83 (the root of ln 2) if one table is all
red, the other white.
"""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from evidently import DataDefinition, Dataset, Report
from evidently.core.report import Snapshot
from evidently.metrics import ValueDrift
from scipy.stats import chi2_contingency, ks_2samp

from wine_quality.errors import DataError
from wine_quality.files import atomic_write
from wine_quality.schema import MEASUREMENTS, TYPE, TYPES
from wine_quality.thresholds import MAX_P_VALUE, MIN_DISTANCE, MIN_GAP, MIN_ROWS

SCORE = "score"  # the column of predictions
NUMBER = {"method": "ks", "threshold": MAX_P_VALUE}  # as Evidently takes them
COLUMNS = ["test", "p_value", "effect", "minimum", "drifted"]  # of the table of results
CATEGORY = {"method": "jensenshannon", "threshold": MIN_DISTANCE}


@dataclass(frozen=True)
class Drift:
    """The result of a comparison; `snapshot` is Evidently's own.

    `columns` has a row for each column that was compared: `type`, and each measurement and the score of each colour,
    such as `alcohol (red)`. It has the `test`, the `p_value`, the `effect` and its `minimum`, and whether the column
    `drifted`. `missing` has a line for each column that was left out because a table has too few
    values in it.
    """

    columns: pd.DataFrame
    snapshot: Snapshot
    missing: list[str]

    @property
    def drifted(self) -> list[str]:
        """The names of the columns that drifted, but for the scores."""
        features = self.columns.loc[~self.columns.index.str.startswith(SCORE)]
        return list(features.index[features["drifted"]])

    @property
    def share(self) -> float:
        """The share of the measurements that drifted, 0 to 1, of the colour in which it is largest."""
        names = [[by_colour(name, colour) for name in MEASUREMENTS] for colour in TYPES]
        compared = [self.columns["drifted"].filter(some) for some in names]
        return max((float(np.mean(some)) for some in compared if len(some)), default=0.0)

    @property
    def type_drift(self) -> bool:
        """Whether the mix of colours drifted."""
        return bool(self.columns["drifted"].get(TYPE, False))

    @property
    def prediction_drift(self) -> bool:
        """Whether the scores of a colour drifted."""
        return bool(self.columns["drifted"].filter([by_colour(SCORE, colour) for colour in TYPES]).any())

    def save_html(self, path: Path) -> None:
        """Write Evidently's page, which needs no network, whole or not at all."""
        with atomic_write(path) as part:
            part.write_text(self.snapshot.get_html_str(as_iframe=False), encoding="utf-8")


def by_colour(name: str, colour: str) -> str:
    """Return the name of a column of one colour."""
    return f"{name} ({colour})"


def drift(reference: pd.DataFrame, current: pd.DataFrame) -> Drift:
    """Compare the `FEATURES` of a week's rows with those of a reference, and their `score` if both have one.

    Each colour is compared with its own rows, because red and white wine differ in every column: with both in one, a
    change of the mix alone would look like drift everywhere. A colour with fewer than ten rows in one of the tables is
    left out, and so is a column with fewer than ten values; infinite values count as missing. If the scores of the
    reference are those of training rows, they must be NaN, because a model is more certain of these. Raise `DataError`
    if a table has fewer than ten rows.
    """
    fewest = min(len(reference), len(current))
    if fewest < MIN_ROWS:
        raise DataError(f"{fewest} rows are too few to test for drift: {MIN_ROWS} are needed. Wait for more.")
    names = [*MEASUREMENTS, *([SCORE] if SCORE in reference and SCORE in current else [])]
    counts: list[Any] = [table[TYPE].value_counts() for table in (reference, current)]
    colours = [colour for colour in TYPES if all(count.get(colour, 0) >= MIN_ROWS for count in counts)]
    infinite = [np.inf, -np.inf]
    tables: list[Any] = [table[[TYPE, *names]].mask(lambda t: t.isin(infinite)) for table in (reference, current)]
    missing = columns_with_few_values(*tables)
    tables = [split_by_colour(table.drop(columns=list(missing)), colours) for table in tables]
    of_a_colour = columns_with_few_values(*tables)
    reference, current = (table.drop(columns=list(of_a_colour)) for table in tables)
    tests = {name: CATEGORY if name == TYPE else NUMBER for name in reference}
    report = Report([ValueDrift(column=name, **test) for name, test in tests.items()])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of constant columns and of small groups
        snapshot = report.run(as_dataset(current), as_dataset(reference))
    values = [float(metric["value"]) for metric in snapshot.dict()["metrics"]]
    columns = [
        drift_row(name, reference[name], current[name], value) for name, value in zip(tests, values, strict=True)
    ]
    table = pd.DataFrame(columns, index=pd.Index(list(tests), dtype="str"), columns=COLUMNS).astype({"drifted": bool})
    return Drift(table, snapshot, [line for line in (missing | of_a_colour).values() if line])


def split_by_colour(table: pd.DataFrame, colours: list[str]) -> pd.DataFrame:
    """Return a table with each of its columns once for each colour, blank in the rows of the other, and the type."""
    kind, rest = table.filter([TYPE]), table.drop(columns=TYPE, errors="ignore")
    parts = {by_colour(name, colour): rest[name].where(table[TYPE] == colour) for colour in colours for name in rest}
    return kind.assign(**parts)


def columns_with_few_values(reference: pd.DataFrame, current: pd.DataFrame) -> dict[str, str]:
    """Return a line for each column with too few values in one of the tables, by its name.

    The line is empty for scores of the reference: only its gate set has any, so few of them aren't missing data.
    """
    of_reference = too_few_values(reference, "reference rows")
    lines = {name: "" if name.startswith(SCORE) else line for name, line in of_reference.items()}
    return lines | too_few_values(current, "rows")


def drift_row(name: str, reference: Any, current: Any, value: float) -> dict[str, Any]:
    """Return the row of a column in the table of results, from what Evidently measured.

    For a measurement that is the p-value, for the type the distance. The other one, effect or p-value, comes from
    scipy. A column drifted if the p-value is at most 0.01 and the effect at least the minimum.
    """
    if name == TYPE:
        p_value, effect, minimum = type_p_value(reference, current), value, MIN_DISTANCE
    else:
        p_value, minimum = value, MIN_GAP
        gap: Any = ks_2samp(reference.dropna(), current.dropna())
        effect = float(gap.statistic)
    drifted = p_value <= MAX_P_VALUE and effect >= minimum
    test = "jensenshannon" if name == TYPE else "ks"
    return {"test": test, "p_value": p_value, "effect": effect, "minimum": minimum, "drifted": drifted}


def type_p_value(reference: Any, current: Any) -> float:
    """Return the chance of shares of the types that differ as much, by the chi-squared test."""
    both = pd.concat([reference, current], keys=["reference", "current"])
    counts = pd.crosstab(both.index.get_level_values(0), both.to_numpy())
    return float(chi2_contingency(counts).pvalue) if counts.shape[1] > 1 else 1.0  # pyright: ignore[reportAttributeAccessIssue]


def too_few_values(table: pd.DataFrame, what: str) -> dict[str, str]:
    """Return a line for each column with too few values to be compared, by the name of the column."""
    counts = {name: table[name].notna().sum() for name in table}
    few = {name: count for name, count in counts.items() if count < MIN_ROWS}
    return {name: f"{name}: measured in {count} of {len(table):,} {what}" for name, count in few.items()}


def as_dataset(table: pd.DataFrame) -> Dataset:
    """Return a table as Evidently takes it."""
    categories = [name for name in table if name == TYPE]
    numbers = [name for name in table if name != TYPE]
    definition = DataDefinition(numerical_columns=numbers, categorical_columns=categories)
    return Dataset.from_pandas(table.reset_index(drop=True), definition)
