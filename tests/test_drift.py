"""Drift between two tables of wine, compared with scipy and with cases of known outcome."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ks_2samp

from wine_quality import drift, sources
from wine_quality.errors import DataError
from wine_quality.schema import FEATURES, MEASUREMENTS
from wine_quality.splits import distinct_rows


@pytest.fixture(scope="module")
def reds() -> pd.DataFrame:
    """Some 1,300 red wines of the sample, in random order."""
    wines = distinct_rows(sources.sample("a test").table).dropna()
    return wines[wines["type"] == "red"].sample(frac=1, random_state=1)


def test_two_samples_of_one_population_do_not_drift(reds):
    result = drift.drift(reds[:600], reds[600:700])
    assert result.share <= 1 / 12
    assert not result.prediction_drift
    assert list(result.columns.index) == FEATURES


def test_the_values_are_those_of_kolmogorov_and_smirnov(reds):
    before, after = reds[:600], reds[600:700]
    result = drift.drift(before, after).columns
    for name in MEASUREMENTS:
        assert result["value"][name] == pytest.approx(ks_2samp(before[name], after[name]).pvalue)


def test_a_column_that_moved_is_named_and_no_other(reds):
    moved = reds[600:700].assign(alcohol=lambda wines: wines["alcohol"] + 1)
    result = drift.drift(reds[:600], moved)
    assert "alcohol" in result.drifted
    assert set(result.drifted) - {"alcohol"} == set(drift.drift(reds[:600], reds[600:700]).drifted)


@pytest.mark.parametrize(("white", "drifted"), [(0, False), (2, False), (3, True), (50, True)])
def test_a_type_that_is_not_in_the_reference_is_drift_from_three_in_a_hundred_on(reds, white, drifted):
    mixed = reds[600:700].assign(type=["white"] * white + ["red"] * (100 - white))
    assert ("type" in drift.drift(reds[:600], mixed).drifted) == drifted


def test_scores_are_compared_with_those_of_the_gate_set(reds):
    scores = pd.Series(np.random.default_rng(1).normal(5.6, 0.5, len(reds)), reds.index)
    before = reds[:600].assign(score=scores[:600].where(np.arange(600) < 120))
    same = drift.drift(before, reds[600:700].assign(score=scores[600:700]))
    assert not same.prediction_drift
    higher = drift.drift(before, reds[600:700].assign(score=scores[600:700] + 0.6))
    assert higher.prediction_drift
    assert "score" not in higher.drifted
    assert higher.share == same.share


def test_missing_values_are_left_out(reds):
    blank = reds[600:700].copy()
    blank.loc[blank.index[:20], "pH"] = np.nan
    expected = ks_2samp(reds[:600]["pH"], reds[620:700]["pH"]).pvalue
    assert drift.drift(reds[:600], blank).columns["value"]["pH"] == pytest.approx(expected)


@pytest.mark.parametrize("nothing", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("table", ["reference", "current"])
def test_a_column_without_values_is_left_out_and_named_and_the_rest_compared(reds, table, nothing):
    tables = {"reference": reds[:600], "current": reds[600:700].assign(alcohol=lambda wines: wines["alcohol"] + 1)}
    whole = drift.drift(**tables)
    result = drift.drift(**tables | {table: tables[table].assign(sulphates=nothing)})
    assert result.missing == [
        f"sulphates: measured in 0 of {'600 reference rows' if table == 'reference' else '100 rows'}"
    ]
    assert result.columns.equals(whole.columns.drop("sulphates"))
    assert result.share == pytest.approx(result.columns["drifted"].mean())


@pytest.mark.parametrize("measured", [1, 9, 10])
def test_a_column_with_fewer_than_ten_values_is_left_out(reds, measured):
    few = reds[600:700].assign(pH=reds["pH"][600:700].where(np.arange(100) < measured))
    result = drift.drift(reds[:600], few)
    assert ("pH" in result.columns.index) == (measured == 10)
    assert result.missing == ([] if measured == 10 else [f"pH: measured in {measured} of 100 rows"])


def test_rows_without_a_value_leave_nothing_to_compare(reds):
    blank = reds[600:700].assign(**dict.fromkeys(MEASUREMENTS, np.nan), type=None, score=np.nan)
    result = drift.drift(reds[:600].assign(score=5.5), blank)
    assert (len(result.columns), len(result.missing), result.share) == (0, 13, 0.0)


def test_a_column_that_is_constant_and_a_type_never_seen_are_compared(reds):
    odd = reds[600:700].assign(alcohol=reds["alcohol"].median(), type=["rosé"] * 50 + [None] * 10 + ["red"] * 40)
    result = drift.drift(reds[:600].assign(chlorides=0.08), odd)
    assert {"alcohol", "chlorides", "type"} <= set(result.drifted)
    assert result.missing == []


def test_too_few_rows_are_rejected(reds):
    with pytest.raises(DataError, match=r"^9 rows are too few to test for drift: 10 are needed"):
        drift.drift(reds[:600], reds[600:609])


def test_the_page_is_one_file_that_needs_no_server(reds, tmp_path):
    path = tmp_path / "reports" / "week-01.html"
    drift.drift(reds[:600], reds[600:700]).save_html(path)
    page = path.read_text()
    assert "alcohol" in page
    assert 'src="http' not in page
    assert 'href="http' not in page.replace('href="https://plotly.com/', "")
    assert [file.name for file in path.parent.iterdir()] == ["week-01.html"]
