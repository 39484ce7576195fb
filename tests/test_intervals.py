"""Prediction intervals: their coverage, and the rows for which they are wide."""

import numpy as np
import pandas as pd
import pytest

from wine_quality import intervals, sources
from wine_quality.models import predict
from wine_quality.schema import TARGET
from wine_quality.splits import distinct_rows


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    """Rows whose quality is 6 plus noise, which is three times as large for red wine."""
    table = distinct_rows(sources.sample("a test").table).iloc[::3]
    sizes = np.where(table["type"] == "red", 0.9, 0.3)
    return table.assign(**{TARGET: 6 + np.random.default_rng(1).normal(0, sizes)})


def coverage(rows: pd.DataFrame, low: np.ndarray, high: np.ndarray) -> float:
    return float(intervals.covered(rows[TARGET].to_numpy(), low, high).mean())


def test_nine_of_ten_intervals_contain_the_quality_and_they_are_wider_for_rows_with_larger_errors(rows):
    train, scored = rows.iloc[::2], rows.iloc[1::2]
    half_widths = predict(intervals.fit_half_width(train, np.full(len(train), 6.0), 1), scored)
    low, high = intervals.bounds(np.full(len(scored), 6.0), half_widths)
    assert coverage(scored, low, high) == pytest.approx(0.9, abs=0.02)
    red = (scored["type"] == "red").to_numpy()
    for some in (red, ~red):
        assert coverage(scored.loc[some], low[some], high[some]) == pytest.approx(0.9, abs=0.05)
    assert np.median(half_widths[red]) > 2 * np.median(half_widths[~red])


def test_intervals_from_errors_on_rows_that_were_fitted_on_are_too_narrow(rows):
    train, scored = rows.iloc[::2], rows.iloc[1::2]
    memorised = 6 + 0.5 * (train[TARGET].to_numpy() - 6)
    half_widths = predict(intervals.fit_half_width(train, memorised, 1), scored)
    assert coverage(scored, *intervals.bounds(np.full(len(scored), 6.0), half_widths)) < 0.7


def test_a_model_without_errors_has_intervals_without_width(rows):
    train = rows.head(50).assign(**{TARGET: 6})
    assert (predict(intervals.fit_half_width(train, np.full(50, 6.0), 1), train) == 0).all()


@pytest.mark.parametrize(("count", "expected"), [(9, 9), (10, 10), (19, 18), (20, 19), (99, 90), (100, 91)])
def test_the_quantile_accounts_for_the_next_row(count, expected):
    ratios = np.random.default_rng(1).permutation(np.arange(1.0, count + 1))
    assert intervals.conformal_quantile(ratios) == expected


def test_the_ends_stay_on_the_scale_of_quality_and_are_blank_without_a_width():
    low, high = intervals.bounds(np.array([0.5, 5.0, 9.5, 6.0]), np.array([1.0, 1.0, 1.0, np.nan]))
    assert low.tolist()[:3] == [0.0, 4.0, 8.5]
    assert high.tolist()[:3] == [1.5, 6.0, 10.0]
    assert np.isnan([low[3], high[3]]).all()
