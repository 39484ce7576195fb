import numpy as np
import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

from wine_quality.errors import DataError
from wine_quality.schema import COLUMNS, MEASUREMENTS, validate


def refusal(table: pd.DataFrame, name: str = "wine.csv", **kwargs) -> str:
    with pytest.raises(DataError) as caught:
        validate(table, name, **kwargs)
    assert str(caught.value).isprintable()
    return str(caught.value)


def test_a_valid_table_is_returned_unchanged_even_with_blanks(wines):
    for table in (wines, wines.assign(pH=np.nan)):
        assert_frame_equal(validate(table, "wine.csv"), table)


def test_text_becomes_numbers_and_columns_are_reordered_in_a_new_table(wines):
    as_text = wines.astype(str)[COLUMNS[::-1]]
    assert_frame_equal(validate(as_text, "wine.csv"), wines)
    assert_frame_equal(as_text, wines.astype(str)[COLUMNS[::-1]])


@pytest.mark.parametrize("kind", ["object", "category", "string"])
def test_the_type_column_may_be_any_text_dtype(wines, kind):
    assert_frame_equal(validate(wines.astype({"type": kind}), "wine.csv"), wines)


@pytest.mark.parametrize("column", MEASUREMENTS)
@pytest.mark.parametrize("bound_name", ["low", "high"])
def test_a_measurement_may_equal_its_bound_but_not_exceed_it(wines, column, bound_name):
    bound = getattr(MEASUREMENTS[column], bound_name)
    wines.loc[2, column] = bound
    assert validate(wines, "wine.csv").loc[2, column] == bound
    wines.loc[2, column] = bound + (0.1 if bound_name == "high" else -0.1)
    with pytest.raises(DataError, match=rf"^wine\.csv: 1 problem: row 2, {column}: .* is not [\d.]+ to [\d.]+ \S+.*\."):
        validate(wines, "wine.csv")


@pytest.mark.parametrize("quality", [0, 10])
def test_quality_may_be_any_whole_number_on_the_scale(wines, quality):
    checked = validate(wines.assign(quality=float(quality)), "wine.csv")
    assert checked["quality"].tolist() == [quality] * 6
    assert checked["quality"].dtype == "int64"


@pytest.mark.parametrize(
    ("column", "value", "problem"),
    [
        ("quality", -1, "-1.0 is not 0 to 10"),
        ("quality", 11, "11.0 is not 0 to 10"),
        ("quality", 5.5, "5.5 is not a whole number"),
        ("quality", np.inf, "inf is not 0 to 10"),
        ("quality", None, "empty"),
        ("quality", "good", "'good' is not a number"),
        ("type", "rosé", "'rosé' is not red or white"),
        ("type", None, "empty"),
        ("type", 1, "'1' is not red or white"),
        ("pH", "sour", "'sour' is not a number"),
        ("pH", np.inf, "inf is not 2 to 5 pH"),
        ("alcohol", -np.inf, "-inf is not 5 to 25 % by volume"),
    ],
)
def test_an_invalid_cell_is_reported_with_its_row_column_and_value(wines, column, value, problem):
    table = wines.astype({column: object})
    table.loc[3, column] = value
    assert refusal(table) == f"wine.csv: 1 problem: row 3, {column}: {problem}. Fix the file and run again."


def test_all_problems_are_reported_together_in_row_order(wines):
    table = wines.astype(str)
    table.loc[4, "pH"], table.loc[1, "alcohol"], table.loc[1, "type"] = "7.5", "weak", "pink"
    table = table.drop(columns="density").assign(vintage="2009")
    assert refusal(table, earlier={(2, "cells"): "12, but the header has 13"}) == (
        "wine.csv: 6 problems: row 1, alcohol: 'weak' is not a number; row 1, columns missing: density; "
        "row 1, columns unknown: 'vintage'; row 1, type: 'pink' is not red or white; "
        "row 2, cells: 12, but the header has 13; row 4, pH: 7.5 is not 2 to 5 pH. Fix the file and run again."
    )
    assert refusal(wines.assign(type=None)).startswith("wine.csv: 6 problems: row 0, type: empty; row 1, type: empty; ")


def test_only_the_first_ten_problems_are_reported_in_full(wines):
    line = refusal(pd.concat([wines] * 2, ignore_index=True).assign(pH=14))
    assert line.startswith("wine.csv: 12 problems: row 0, pH: 14.0 is not 2 to 5 pH; row 1, ")
    assert line.endswith("; row 9, pH: 14.0 is not 2 to 5 pH; and 2 more. Fix the file and run again.")


def test_an_error_line_is_short_and_printable_whatever_a_cell_or_a_name_contains(wines):
    table = wines.astype(str).assign(**{"x" * 5000: "1"})
    table.loc[0, "pH"] = "y" * 5000
    assert len(refusal(table)) < 250
    table.loc[0, "pH"] = "3\n\x1b[31m1"
    refusal(table, "wine\n.csv")
