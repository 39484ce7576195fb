"""Data drift: how the rows of a week differ from those that the model was trained on. Evidently does the statistics.

A measurement is compared by Kolmogorov and Smirnov's test: the largest distance between the two cumulative
distributions, and the chance (p-value) that two samples of one population lie as far apart. The type is compared by the
distance of Jensen and Shannon (the square root of the divergence of Lin, 1991, IEEE Transactions on Information Theory
37(1), 145-151): 0 if the shares of red are the same, 0.83 (the root of ln 2) if one table is all red, the other white.
"""

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from evidently import DataDefinition, Dataset, Report
from evidently.core.report import Snapshot
from evidently.metrics import ValueDrift

from wine_quality.errors import DataError
from wine_quality.files import atomic_write
from wine_quality.schema import FEATURES
from wine_quality.thresholds import MAX_P_VALUE, MIN_DISTANCE, MIN_ROWS

SCORE = "score"  # the column of predictions
NUMBER = {"method": "ks", "threshold": MAX_P_VALUE}  # as Evidently takes them
CATEGORY = {"method": "jensenshannon", "threshold": MIN_DISTANCE}


@dataclass(frozen=True)
class Drift:
    """The result of a comparison; `snapshot` is Evidently's own.

    `columns` has a row for each column that was compared: its `test`, `value` and `limit`, and whether it `drifted`.
    `share` is the share of the features that drifted, 0 to 1. `missing` has a line for each column that was left out
    because a table has too few values in it.
    """

    columns: pd.DataFrame
    share: float
    snapshot: Snapshot
    missing: list[str]

    @property
    def drifted(self) -> list[str]:
        """The names of the features that drifted."""
        features = self.columns.loc[self.columns.index != SCORE]
        return list(features.index[features["drifted"]])

    @property
    def prediction_drift(self) -> bool:
        """Whether the scores drifted."""
        return bool(self.columns["drifted"].get(SCORE, False))

    def save_html(self, path: Path) -> None:
        """Write Evidently's page, which needs no network, whole or not at all."""
        with atomic_write(path) as part:
            part.write_text(self.snapshot.get_html_str(as_iframe=False), encoding="utf-8")


def drift(reference: pd.DataFrame, current: pd.DataFrame) -> Drift:
    """Compare the `FEATURES` of a week's rows with those of the reference window, and their `score` if both have one.

    The reference needs NaN as the score of training rows: a model is more certain of them, so the scores spread wider.
    Infinite values count as missing, and a column with fewer than ten values in one of the tables is left out. Raise
    `DataError` if a table has fewer than ten rows.
    """
    fewest = min(len(reference), len(current))
    if fewest < MIN_ROWS:
        raise DataError(f"{fewest} rows are too few to test for drift: {MIN_ROWS} are needed. Wait for more.")
    names = [*FEATURES, *([SCORE] if SCORE in reference and SCORE in current else [])]
    reference, current = (
        table.filter(names).mask(lambda t: t.isin([np.inf, -np.inf])) for table in (reference, current)
    )
    missing = too_few_values(reference, "reference rows") | too_few_values(current, "rows")
    names = [name for name in names if name not in missing]
    tests = {name: CATEGORY if name == "type" else NUMBER for name in names}
    report = Report([ValueDrift(column=name, **test) for name, test in tests.items()])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of constant columns and of small groups
        snapshot = report.run(as_dataset(current.filter(names)), as_dataset(reference.filter(names)))
    columns = drift_table(tests, [float(metric["value"]) for metric in snapshot.dict()["metrics"]])
    features = columns.loc[columns.index != SCORE, "drifted"]
    return Drift(columns, float(features.mean()) if len(features) else 0.0, snapshot, list(missing.values()))


def drift_table(tests: dict[str, dict], values: list[float]) -> pd.DataFrame:
    """Return each column's test, value and limit, and whether it drifted: a p-value is low then, a distance high."""
    columns = pd.DataFrame({"test": [test["method"] for test in tests.values()], "value": values}, index=list(tests))
    columns["limit"] = [test["threshold"] for test in tests.values()]
    p_value, value, limit = columns["test"] == NUMBER["method"], columns["value"], columns["limit"]
    columns["drifted"] = (p_value & (value <= limit)) | (~p_value & (value >= limit))
    return columns


def too_few_values(table: pd.DataFrame, what: str) -> dict[str, str]:
    """Return a line for each column with too few values to be compared, by the name of the column."""
    counts = {name: table[name].notna().sum() for name in table}
    few = {name: count for name, count in counts.items() if count < MIN_ROWS}
    return {name: f"{name}: measured in {count} of {len(table):,} {what}" for name, count in few.items()}


def as_dataset(table: pd.DataFrame) -> Dataset:
    """Return a table as Evidently takes it."""
    categories = [name for name in table if name == "type"]
    numbers = [name for name in table if name != "type"]
    definition = DataDefinition(numerical_columns=numbers, categorical_columns=categories)
    return Dataset.from_pandas(table.reset_index(drop=True), definition)
