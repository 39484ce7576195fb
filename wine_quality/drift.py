"""Drift: how unlike the wines of a week are to those that the model was trained on. Evidently does the statistics.

Two tests, one for each kind of column. A measurement is compared by Kolmogorov and Smirnov: the largest distance
between the two cumulative distributions, and the chance (p-value) that two draws from one cellar lie as far apart. The
colour is compared by the distance of Jensen and Shannon (the square root of the divergence of Lin, 1991, IEEE
Transactions on Information Theory 37(1), 145-151): 0 where red and white have the same shares on both sides, and 0.83,
the root of ln 2, where one side is all red and the other all white.
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
from wine_quality.files import whole_file
from wine_quality.schema import FEATURES
from wine_quality.thresholds import FEWEST_COMPARED, LEAST_CHANCE, MOST_DISTANCE

SCORE = "score"  # the column of what the model said


@dataclass(frozen=True)
class Drift:
    """What was found.

    Attributes
    ----------
    columns : DataFrame of shape (up to 13, 4)
        By the name of each column that was compared: the `test`, its `value`, its `limit`, and whether it `drifted`.
    share : float
        The share of the compared features that drifted, 0 to 1.
    snapshot : Snapshot
        Evidently's own result.
    missing : list of str
        A line for each column that was left out because one of the tables has too few values in it.
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
    def score_drifted(self) -> bool:
        """Whether the scores did."""
        return bool(self.columns["drifted"].get(SCORE, False))

    def save_html(self, path: Path) -> None:
        """Write Evidently's page, which needs no network, whole or not at all."""
        with whole_file(path) as part:
            part.write_text(self.snapshot.get_html_str(as_iframe=False), encoding="utf-8")


def drift(reference: pd.DataFrame, current: pd.DataFrame) -> Drift:
    """Compare the wines of a week with those the model was trained on.

    Parameters
    ----------
    reference, current : DataFrame of shape (n wines, 12 or more)
        The columns of `FEATURES`, in the units of `MEASUREMENTS`. Where both have a `score` it is compared too: that of
        the reference must be of wines that the model was not trained on, and is NaN for all others. A model is surer of
        wines it knows, so that its scores of these would lie farther apart.

    Raises
    ------
    DataError
        A side has fewer than ten wines.

    Notes
    -----
    Infinite values count as missing. A column with fewer than ten values in one of the tables is left out.
    """
    fewest = min(len(reference), len(current))
    if fewest < FEWEST_COMPARED:
        raise DataError(f"drift of {fewest} wines: fewer than {FEWEST_COMPARED} tell nothing. Wait for more.")
    names = [*FEATURES, *([SCORE] if SCORE in reference and SCORE in current else [])]
    reference, current = (side[names].replace([np.inf, -np.inf], np.nan) for side in (reference, current))
    missing = left_out(reference, "rows that the model knows") | left_out(current, "rows")
    names = [name for name in names if name not in missing]
    tests = {name: words() if name == "type" else numbers() for name in names}
    report = Report([ValueDrift(column=name, **test) for name, test in tests.items()])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a column that is the same in all wines, and of small groups
        snapshot = report.run(described(current[names]), described(reference[names]))
    values = [float(metric["value"]) for metric in snapshot.dict()["metrics"]]
    columns = pd.DataFrame({"test": [test["method"] for test in tests.values()], "value": values}, index=names)
    columns["limit"] = [test["threshold"] for test in tests.values()]
    chance, value, limit = columns["test"] == "ks", columns["value"], columns["limit"]
    columns["drifted"] = (chance & (value <= limit)) | (~chance & (value >= limit))
    features = columns.loc[columns.index != SCORE, "drifted"]
    return Drift(columns, float(features.mean()) if len(features) else 0.0, snapshot, list(missing.values()))


def left_out(wines: pd.DataFrame, what: str) -> dict[str, str]:
    """Return a line for each column with too few values to be compared, by the name of the column."""
    counts = wines.notna().sum()
    return {
        name: f"{name}: measured in {count} of {len(wines):,} {what}"
        for name, count in counts.items()
        if count < FEWEST_COMPARED
    }


def numbers() -> dict[str, str | float]:
    """Return the test of a measurement as Evidently takes it."""
    return {"method": "ks", "threshold": LEAST_CHANCE}


def words() -> dict[str, str | float]:
    """Return the test of a word as Evidently takes it."""
    return {"method": "jensenshannon", "threshold": MOST_DISTANCE}


def described(wines: pd.DataFrame) -> Dataset:
    """Return wines as Evidently takes them."""
    words = [name for name in wines if name == "type"]
    numeric = [name for name in wines if name not in words]
    definition = DataDefinition(numerical_columns=numeric, categorical_columns=words)
    return Dataset.from_pandas(wines.reset_index(drop=True), definition)
