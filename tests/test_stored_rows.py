"""Rows stored as CSV come back with the types of the schema, even if a category consists of digits."""

import pandas as pd
import pytest
from pandas.testing import assert_frame_equal
from versions import artifacts, crown, few_sides, register_model

from deployment.neighbours import load_rows
from monitoring.reference import load_reference
from wine_quality.schema import FEATURES
from wine_quality.tables import read_back
from wine_quality.tracking import ROWS_FILE


@pytest.fixture
def digits() -> pd.DataFrame:
    """A tidy table whose categories are digits, as in another team's dataset."""
    table = few_sides()[0].reset_index(drop=True)
    return table.assign(type=table["type"].map({"red": "1", "white": "0"}).astype(table["type"].dtype))


def test_a_tidy_table_is_read_back_unchanged(digits, tmp_path):
    for table in (digits, digits.assign(pH=float("nan"), quality=5)):
        table.to_csv(tmp_path / "rows.csv", index=False)
        assert_frame_equal(read_back(tmp_path / "rows.csv"), table)


def test_the_nearest_rows_have_their_category_as_text(config, digits):
    version = register_model(config, "linear")
    digits.to_csv(artifacts(version) / ROWS_FILE, index=False)
    index = load_rows(config, version)
    nearest = index.nearest({**digits.loc[0, FEATURES], "type": "red"})["nearest"]
    assert {type(row["type"]) for row in nearest} == {str}
    assert {row["type"] for row in nearest} <= {"0", "1"}


def test_the_reference_has_its_category_as_text(config, digits):
    crown(version := register_model(config, "linear"))
    cached = config.local / "reference" / f"{version.run_id}.csv"
    cached.parent.mkdir(parents=True)
    digits.to_csv(cached, index=False)
    assert_frame_equal(load_reference(config).table, digits)
