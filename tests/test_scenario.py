"""The scenario of a simulation: which rows arrive when, and what goes wrong."""

import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

from monitoring.simulation.scenario import SCENARIOS, SHORT, Scenario, draw_weeks, labels_due, taster_labels
from wine_quality import sources
from wine_quality.errors import DataError
from wine_quality.schema import FEATURES, MEASUREMENTS
from wine_quality.splits import row_keys


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return sources.sample("a test").table


@pytest.fixture(scope="module", params=SCENARIOS)
def scenario(request) -> Scenario:
    return SCENARIOS[request.param]


@pytest.fixture(scope="module")
def draw(scenario, table):
    return draw_weeks(scenario, table, 1)


def test_no_row_occurs_twice(draw):
    training, weeks = draw
    keys = row_keys(pd.concat([training, *(week.table for week in weeks)]))
    assert keys.is_unique


def test_a_seed_reproduces_the_weeks_and_another_seed_changes_them(scenario, table, draw):
    again, other = draw_weeks(scenario, table, 1), draw_weeks(scenario, table, 2)
    assert_frame_equal(again[0], draw[0])
    for one, same in zip(draw[1], again[1], strict=True):
        assert_frame_equal(one.table, same.table)
    assert not other[0].equals(draw[0])


def test_the_first_champion_is_trained_on_red_wine_and_white_wine_arrives_later(scenario, draw):
    training, weeks = draw
    assert set(training["type"]) == {"red"}
    whites = [int((week.table["type"] == "white").sum()) for week in weeks]
    assert whites[: scenario.shift - 1] == [0] * (scenario.shift - 1)
    assert whites[scenario.shift - 1] > 0
    assert whites[-1] > len(weeks[-1].table) / 2


def test_half_of_the_rows_in_the_bad_week_have_density_in_the_wrong_unit(scenario, draw):
    weeks = {week.number: week for week in draw[1]}
    invalid = weeks[scenario.bad_data].invalid
    assert list(invalid.columns) == FEATURES
    assert (invalid["density"] > 900).all()
    assert invalid[list(MEASUREMENTS)].drop(columns="density").notna().all(axis=None)
    assert [number for number, week in weeks.items() if len(week.invalid)] == [scenario.bad_data]


def test_the_high_sulfur_week_has_the_red_rows_highest_in_sulfur_dioxide(scenario, draw):
    weeks = {week.number: week.table for week in draw[1]}
    sulphur = "total_sulfur_dioxide"
    others = pd.concat(weeks[number] for number in weeks if number != scenario.high_sulfur)
    assert weeks[scenario.high_sulfur][sulphur].min() >= others.loc[others["type"] == "red", sulphur].max()


def test_labels_arrive_late_and_wrong_ones_are_corrected_later(scenario):
    due = {week: labels_due(scenario, week) for week in range(1, len(scenario.arrivals) + 1)}
    assert all(not due[week] for week in range(1, scenario.label_delay + 1))
    first_time = {week - scenario.label_delay: weeks.get(week - scenario.label_delay) for week, weeks in due.items()}
    wrong = {week for week, right in first_time.items() if right is False}
    assert wrong == set(scenario.wrong_labels) & set(first_time)
    if scenario.correction <= len(scenario.arrivals):
        assert all(due[scenario.correction][week] for week in scenario.wrong_labels)


def test_an_inverted_scale_changes_every_label(draw):
    table = draw[1][0].table
    inverted = taster_labels(table, correct=False)
    assert [10 - quality for quality in inverted] == taster_labels(table, correct=True) == table["quality"].tolist()
    assert all(isinstance(quality, int) for quality in inverted)


def test_too_few_rows_are_rejected_with_their_counts(wines):
    with pytest.raises(DataError, match=r"the simulation needs .* rows, and the data has 2 and 3\. Set WINE_DATA"):
        draw_weeks(SHORT, wines, 1)
