"""Errors and interval coverage by slice."""

from itertools import pairwise

import numpy as np
import pandas as pd

from wine_quality.errors import SettingsError
from wine_quality.intervals import covered
from wine_quality.metrics import rmse_interval
from wine_quality.schema import MEASUREMENTS, TARGET, TYPE, TYPES

ALL = "all rows"
BANDS = {"quality 0 to 4": (0, 4), "quality 5 or 6": (5, 6), "quality 7 to 10": (7, 10)}


def slices(rows: pd.DataFrame, column: str = "") -> dict[str, np.ndarray]:
    """Return a mask for each slice, by name: the colours, the bands of quality, and the thirds of a column if given.

    A mask is boolean, of shape (n rows,). A slice without rows is left out, and blanks of the column are in no third.
    Raise `SettingsError` if the column is not a measurement.
    """
    assert_measurement(column)
    found = {colour: rows[TYPE] == colour for colour in TYPES}
    found |= {band: rows[TARGET].between(low, high) for band, (low, high) in BANDS.items()}
    if column:
        edges = np.unique(rows[column].quantile([0, 1 / 3, 2 / 3, 1]).dropna())
        for low, high in pairwise(edges):
            ends = "both" if high == edges[-1] else "left"
            found[f"{column} {round(low, 4):g} to {round(high, 4):g}"] = rows[column].between(low, high, inclusive=ends)
    return {name: mask.to_numpy() for name, mask in found.items() if mask.any()}


def assert_measurement(column: str) -> None:
    """Raise `SettingsError` unless the column is a measurement or an empty string."""
    if column and column not in MEASUREMENTS:
        raise SettingsError(f"WINE_SLICE={column!r}: not a measurement. Choose one of {', '.join(MEASUREMENTS)}.")


def error_table(
    rows: pd.DataFrame, scores: np.ndarray, ends: tuple[np.ndarray, np.ndarray], seed: int, column: str = ""
) -> pd.DataFrame:
    """Return the error of some scores, and the coverage of their intervals, over all rows and in each slice.

    Each row of the table has the number of `rows`, the `rmse` with its 95 % interval (`low`, `high`) and the
    `coverage`, 0 to 1, NaN without intervals. `ends` are the lower and the upper ends of the intervals.
    """
    actual, (low, high) = rows[TARGET].to_numpy(), ends
    inside = np.where(np.isnan(low), np.nan, covered(actual, low, high))
    table = {}
    for name, mask in {ALL: np.ones(len(rows), dtype=bool), **slices(rows, column)}.items():
        rmse, lower, upper = rmse_interval(actual[mask], scores[mask], seed)
        table[name] = {"rows": mask.sum(), "rmse": rmse, "low": lower, "high": upper, "coverage": inside[mask].mean()}
    return pd.DataFrame(table).T.astype({"rows": int})
