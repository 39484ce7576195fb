"""The plan of the replayed year: which wine comes when, and what goes wrong."""

import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

from monitoring.simulation import scenario as year
from monitoring.simulation.scenario import SIX_WEEKS, YEAR, Plan, plan_year
from wine_quality import data
from wine_quality.errors import DataError
from wine_quality.schema import FEATURES, MEASUREMENTS
from wine_quality.splits import wine_keys


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return data.sample("a test").table


@pytest.fixture(scope="module", params=[YEAR, SIX_WEEKS], ids=["year", "six weeks"])
def plan(request) -> Plan:
    return request.param


@pytest.fixture(scope="module")
def lived(plan, table):
    return plan_year(plan, table, 1)


def test_no_wine_comes_twice_nor_was_known_before(lived):
    known, weeks = lived
    keys = wine_keys(pd.concat([known, *(week.wines for week in weeks)]))
    assert keys.is_unique


def test_the_same_seed_gives_the_same_year_and_another_one_another(plan, table, lived):
    again, other = plan_year(plan, table, 1), plan_year(plan, table, 2)
    assert_frame_equal(again[0], lived[0])
    for one, same in zip(lived[1], again[1], strict=True):
        assert_frame_equal(one.wines, same.wines)
    assert not other[0].equals(lived[0])


def test_the_first_champion_knows_red_wine_only_and_white_creeps_in(plan, lived):
    known, weeks = lived
    assert set(known["type"]) == {"red"}
    whites = [int((week.wines["type"] == "white").sum()) for week in weeks]
    assert whites[: plan.shift - 1] == [0] * (plan.shift - 1)
    assert whites[plan.shift - 1] > 0
    assert whites[-1] > len(weeks[-1].wines) / 2


def test_in_the_week_of_bad_data_half_of_the_wines_have_their_density_in_the_wrong_unit(plan, lived):
    weeks = {week.number: week for week in lived[1]}
    garbled = weeks[plan.bad_data].garbled
    assert list(garbled.columns) == FEATURES
    assert (garbled["density"] > 900).all()
    assert garbled[list(MEASUREMENTS)].drop(columns="density").notna().all(axis=None)
    assert [number for number, week in weeks.items() if len(week.garbled)] == [plan.bad_data]


def test_the_sulphured_week_has_the_most_sulphured_of_the_red_wines_to_come(plan, lived):
    weeks = {week.number: week.wines for week in lived[1]}
    sulphur = "total_sulfur_dioxide"
    others = pd.concat([wines[wines["type"] == "red"] for number, wines in weeks.items() if number != plan.sulphured])
    assert weeks[plan.sulphured][sulphur].min() >= others[sulphur].max()


def test_qualities_are_told_late_once_the_wrong_way_round_and_then_mended(plan):
    told = {week: year.told_in(plan, week) for week in range(1, plan.weeks + 1)}
    assert all(not told[week] for week in range(1, plan.lag + 1))
    first_time = {week - plan.lag: right for week, weeks in told.items() for right in [weeks.get(week - plan.lag)]}
    assert {week for week, right in first_time.items() if right is False} == set(plan.turned) & set(first_time)
    if year.mended_in(plan) <= plan.weeks:
        assert all(told[year.mended_in(plan)][week] for week in plan.turned)


def test_who_counts_from_the_best_down_turns_every_quality(lived):
    wines = lived[1][0].wines
    turned = year.qualities(wines, right=False)
    assert [10 - quality for quality in turned] == year.qualities(wines, right=True) == wines["quality"].tolist()
    assert all(isinstance(quality, int) for quality in turned)


def test_too_few_wines_for_a_year_are_refused_with_their_number(wines):
    with pytest.raises(DataError, match=r"2 red and 3 white wines are too few for the year: .* WINE_DATA"):
        plan_year(SIX_WEEKS, wines, 1)
