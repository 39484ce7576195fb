"""Errors by slice of the rows."""

import numpy as np
import pandas as pd
import pytest

from wine_quality.errors import SettingsError
from wine_quality.schema import MEASUREMENTS
from wine_quality.slices import error_table, slices


@pytest.fixture
def rows() -> pd.DataFrame:
    table = pd.DataFrame({"type": ["red"] * 3 + ["white"] * 6, **dict.fromkeys(MEASUREMENTS, 1.0)})
    table["alcohol"] = [9.0, 9.5, 10.0, 10.5, 11.0, 11.5, 12.0, 12.5, np.nan]
    return table.assign(quality=[4, 5, 6, 6, 6, 6, 7, 8, 9])


def test_rows_are_sliced_by_colour_band_of_quality_and_thirds_of_a_column(rows):
    counts = {name: int(mask.sum()) for name, mask in slices(rows, "alcohol").items()}
    bands = {"quality 0 to 4": 1, "quality 5 or 6": 5, "quality 7 to 10": 3}
    thirds = {"alcohol 9 to 10.1667": 3, "alcohol 10.1667 to 11.3333": 2, "alcohol 11.3333 to 12.5": 3}
    assert counts == {"red": 3, "white": 6} | bands | thirds


def test_each_row_that_has_a_value_is_in_a_third(rows):
    density = rows.assign(density=np.linspace(0.98716, 1.03892, len(rows)))
    thirds = {name: mask for name, mask in slices(density, "density").items() if name.startswith("density")}
    assert sum(thirds.values()).tolist() == [1] * len(rows)
    assert next(iter(thirds)) == "density 0.9872 to 1.0044"


def test_a_slice_without_rows_is_left_out_and_a_constant_column_makes_none(rows):
    assert list(slices(rows.iloc[6:], "pH")) == ["white", "quality 7 to 10"]


def test_a_column_that_is_not_a_measurement_is_rejected(rows):
    for name in ("colour", "quality", "type"):
        with pytest.raises(SettingsError, match=rf"^WINE_SLICE='{name}': not a measurement\. Choose one of fixed_acid"):
            slices(rows, name)


def test_the_table_has_the_error_and_the_coverage_of_each_slice(rows):
    scores = rows["quality"] + np.where(rows["type"] == "red", 2.0, 0.5)
    ends = (scores - 1).to_numpy(), (scores + 1).to_numpy()
    table = error_table(rows, scores.to_numpy(), ends, seed=1)
    assert table["rows"].to_dict() == {"all rows": 9, **{name: mask.sum() for name, mask in slices(rows).items()}}
    assert table["rmse"]["red"] == table["low"]["red"] == 2.0
    assert table["rmse"]["white"] == 0.5
    assert table["rmse"]["all rows"] == pytest.approx(np.sqrt((3 * 4 + 6 * 0.25) / 9))
    assert (table["low"]["all rows"], table["high"]["all rows"]) == (
        pytest.approx(0.75, abs=0.3),
        pytest.approx(1.6, abs=0.4),
    )
    assert table["coverage"].round(3).to_dict() | {} == {
        "all rows": 0.667, "red": 0, "white": 1, "quality 0 to 4": 0, "quality 5 or 6": 0.6, "quality 7 to 10": 1
    }  # fmt: skip


def test_without_intervals_the_coverage_is_blank(rows):
    blank = np.full(len(rows), np.nan)
    assert error_table(rows, np.full(len(rows), 6.0), (blank, blank), seed=1)["coverage"].isna().all()
