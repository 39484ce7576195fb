"""Drift between two tables, checked against scipy and on cases with a known outcome."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ks_2samp

from wine_quality import sources
from wine_quality.drift import drift
from wine_quality.errors import DataError
from wine_quality.schema import MEASUREMENTS
from wine_quality.splits import distinct_rows


@pytest.fixture(scope="module")
def wines() -> pd.DataFrame:
    """The complete rows of the sample, in random order."""
    return distinct_rows(sources.sample("a test").table).dropna().sample(frac=1, random_state=1)


@pytest.fixture(scope="module")
def reds(wines) -> pd.DataFrame:
    """About 1,300 rows of red wine."""
    return wines[wines["type"] == "red"]


@pytest.fixture(scope="module")
def whites(wines) -> pd.DataFrame:
    return wines[wines["type"] == "white"]


@pytest.fixture
def before(reds) -> pd.DataFrame:
    return reds[:600]


@pytest.fixture
def after(reds) -> pd.DataFrame:
    return reds[600:700]


RED = [f"{name} (red)" for name in MEASUREMENTS]


def test_two_samples_of_one_population_do_not_drift(before, after, tmp_path):
    result = drift(before, after)
    assert result.share <= 1 / 11
    assert not result.prediction_drift
    assert list(result.columns.index) == ["type", *RED]
    expected = [ks_2samp(before[name], after[name]) for name in MEASUREMENTS]
    assert result.columns["p_value"][RED].tolist() == pytest.approx([one.pvalue for one in expected])
    assert result.columns["effect"][RED].tolist() == pytest.approx([one.statistic for one in expected])
    path = tmp_path / "reports" / "week-01.html"
    result.save_html(path)
    page = path.read_text()
    assert "alcohol" in page
    assert 'src="http' not in page, "the page is self-contained"
    assert 'href="http' not in page.replace('href="https://plotly.com/', "")
    assert [file.name for file in path.parent.iterdir()] == ["week-01.html"]


def test_only_the_column_that_shifted_is_listed(before, after):
    moved = drift(before, after.assign(alcohol=after["alcohol"] + 1)).drifted
    assert "alcohol (red)" in moved
    assert set(moved) - {"alcohol (red)"} == set(drift(before, after).drifted)


def test_a_trivial_shift_in_a_large_sample_is_no_drift_despite_a_small_p_value(reds):
    many = pd.concat([reds] * 20)
    result = drift(many, many.assign(alcohol=many["alcohol"] + 0.1)).columns.loc["alcohol (red)"]
    assert result["p_value"] < 1e-6
    assert result["effect"] < result["minimum"] == 0.1
    assert not result["drifted"]


@pytest.mark.parametrize(("white", "drifted"), [(0, False), (2, False), (4, True), (50, True)])
def test_a_new_type_is_drift_from_four_rows_in_a_hundred(before, after, white, drifted):
    mixed = after.assign(type=["white"] * white + ["red"] * (100 - white))
    result = drift(before, mixed)
    assert result.type_drift == ("type" in result.drifted) == drifted


def test_a_changed_colour_mix_is_drift_of_the_type_and_not_of_measurements(reds, whites):
    before, after = pd.concat([reds[:400], whites[:400]]), pd.concat([reds[400:450], whites[400:600]])
    result = drift(before, after)
    assert result.type_drift
    assert len(result.drifted) <= 2
    assert len(result.columns) == 1 + 2 * 11
    assert result.share <= 1 / 11


def test_the_share_is_that_of_the_colour_with_the_most_drift(reds, whites):
    before, after = pd.concat([reds[:400], whites[:400]]), pd.concat([reds[400:500], whites[400:500]])
    white = after["type"] == "white"
    moved = {name: after[name] * (1 + white) for name in list(MEASUREMENTS)[:5]}
    result = drift(before, after.assign(**moved))
    assert 5 / 11 <= result.share <= 6 / 11
    assert {f"{name} (white)" for name in moved} <= set(result.drifted)
    assert not result.type_drift


def test_scores_are_compared_with_those_on_the_gate_set(reds, before, after):
    scores = pd.Series(np.random.default_rng(1).normal(5.6, 0.5, len(reds)), reds.index)
    before = before.assign(score=scores[:600].where(np.arange(600) < 120))
    same = drift(before, after.assign(score=scores[600:700]))
    assert not same.prediction_drift
    higher = drift(before, after.assign(score=scores[600:700] + 0.6))
    assert higher.prediction_drift
    assert not any("score" in name for name in higher.drifted)
    assert higher.share == same.share


def test_too_few_scores_on_the_gate_set_are_not_missing_data(reds, before, after):
    scored = before.assign(score=pd.Series(5.6, before.index).where(np.arange(600) < 8))
    assert drift(scored, after.assign(score=5.6)).missing == []


def test_missing_values_are_ignored(before, after):
    blank = after.assign(pH=after["pH"].where(np.arange(100) >= 20))
    expected = ks_2samp(before["pH"], after["pH"][20:]).pvalue
    assert drift(before, blank).columns["p_value"]["pH (red)"] == pytest.approx(expected)


@pytest.mark.parametrize("nothing", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(("table", "rows"), [("reference", "600 reference rows"), ("current", "100 rows")])
def test_a_column_without_values_is_reported_and_the_others_are_compared(before, after, table, rows, nothing):
    tables = {"reference": before, "current": after.assign(alcohol=after["alcohol"] + 1)}
    whole = drift(**tables)
    result = drift(**tables | {table: tables[table].assign(sulphates=nothing)})
    assert result.missing == [f"sulphates: measured in 0 of {rows}"]
    assert result.columns.equals(whole.columns.drop("sulphates (red)"))
    assert result.share == pytest.approx(result.columns["drifted"].drop("type").mean())


def test_a_column_without_values_in_one_colour_is_reported_with_the_colour(reds, whites):
    both = pd.concat([reds[:100], whites[:100]])
    result = drift(both, both.assign(pH=both["pH"].where(both["type"] == "red")))
    assert result.missing == ["pH (white): measured in 0 of 200 rows"]


def test_empty_columns_leave_nothing_to_compare_and_constant_columns_are_compared(before, after):
    blank = after.assign(**dict.fromkeys(MEASUREMENTS, np.nan), type=None, score=np.nan)
    result = drift(before.assign(score=5.5), blank)
    assert (len(result.columns), len(result.missing), result.share) == (0, 13, 0.0)
    assert (result.drifted, result.type_drift, result.prediction_drift) == ([], False, False)
    odd = after.assign(alcohol=before["alcohol"].median(), type=["rosé"] * 50 + [None] * 10 + ["red"] * 40)
    result = drift(before.assign(chlorides=0.08), odd)
    assert {"alcohol (red)", "chlorides (red)", "type"} <= set(result.drifted)
    assert result.missing == []


def test_too_few_rows_are_rejected(before, after):
    with pytest.raises(DataError, match=r"^9 rows are too few to test for drift: 10 are needed"):
        drift(before, after[:9])
