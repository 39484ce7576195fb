"""What is beyond a limit, and what follows from it."""

from dataclasses import replace

import numpy as np
import pytest

from wine_quality import thresholds as health
from wine_quality.thresholds import Finding, Quality, Reading

CALM = Reading("week 01", "1", asked=100, refused=1, wines=99, drift=0.1)
BAD, DRIFT, LOST = Finding("bad data", "…"), Finding("drift", "…"), Finding("quality", "…")


def kinds(reading: Reading) -> list[str]:
    return [finding.kind for finding in health.findings(reading)]


def test_a_calm_week_has_no_findings():
    assert kinds(CALM) == []


@pytest.mark.parametrize(("refused", "found"), [(5, []), (6, ["bad data"])])
def test_more_refused_requests_than_one_in_twenty_are_bad_data(refused, found):
    assert kinds(replace(CALM, refused=refused)) == found


def test_a_column_without_values_is_a_finding_that_neither_asks_for_a_training_nor_stops_one():
    reading = replace(CALM, missing=["sulphates: measured in 0 of 300 rows"])
    (finding,) = health.findings(reading)
    assert str(finding) == "missing data: sulphates: measured in 0 of 300 rows"
    assert health.event([finding], 2000, 1000) == ("", "data that is missing calls for no training")
    assert health.event([finding, DRIFT], 2000, 1000)[0] == "drift"
    assert health.event([finding, DRIFT], 1100, 1000)[1].startswith("too little to learn from")


@pytest.mark.parametrize("asked", [None, 0])
def test_without_requests_nothing_is_said_of_them(asked):
    assert kinds(replace(CALM, asked=asked, refused=asked)) == []


@pytest.mark.parametrize(("share", "found"), [(3 / 12, []), (4 / 12, ["drift"]), (None, [])])
def test_a_third_of_the_columns_is_drift(share, found):
    assert kinds(replace(CALM, drift=share, drifted=["alcohol"])) == found


@pytest.mark.parametrize(("low", "found"), [(0.70, []), (0.71, ["quality"])])
def test_an_error_whose_whole_interval_lies_above_what_was_promised_is_lost_quality(low, found):
    assert kinds(replace(CALM, quality=Quality(150, 0.8, low, 0.9, 0.67))) == found


def test_the_line_of_a_finding_has_the_figures():
    (found,) = health.findings(replace(CALM, version="2", quality=Quality(150, 0.8, 0.75, 0.9, 0.67)))
    assert (
        found.line == "the RMSE of version 2 on 150 labelled wines is 0.800 (0.750 to 0.900), and 0.670 on its gate set"
    )


def test_the_error_is_that_of_the_newest_wines():
    actual, scores = np.full(400, 5.0), np.repeat([9.0, 5.5], [250, 150])
    found = health.quality(actual, scores, 0.6, seed=1)
    assert found.wines == 150
    assert (found.rmse, found.low, found.high) == pytest.approx((0.5, 0.5, 0.5))


def test_the_interval_is_as_wide_as_the_luck_of_the_draw():
    noise = np.random.default_rng(1).normal(0, 1, 150)
    found = health.quality(np.zeros(150), noise, 1.0, seed=1)
    half = 1.96 / np.sqrt(2 * 150)  # of the root mean square of normal errors
    assert found.high - found.low == pytest.approx(2 * half, rel=0.2)


def test_of_fewer_than_forty_labels_nothing_is_said():
    assert health.quality(np.zeros(39), np.ones(39), 0.6, seed=1) is None
    assert health.quality(np.zeros(40), np.ones(40), 0.6, seed=1).lost


@pytest.mark.parametrize(
    ("found", "wines", "event"),
    [
        ([], 2000, ""),
        ([DRIFT], 1499, ""),
        ([DRIFT], 1500, "drift"),
        ([LOST], 1333, ""),
        ([LOST], 1334, "quality"),
        ([DRIFT, LOST], 1334, "quality"),
        ([DRIFT, LOST], 2000, "quality"),
        ([BAD, DRIFT, LOST], 2000, ""),
    ],
)
def test_a_model_is_asked_for_where_there_is_something_new_to_learn(found, wines, event):
    assert health.event(found, wines, 1000)[0] == event


def test_why_nothing_follows_is_told():
    assert health.event([BAD], 2000, 1000)[1].startswith("bad data is mended where it comes from")
    assert health.event([DRIFT], 1100, 1000)[1] == (
        "too little to learn from: 100 more labelled wines (+10%), 50% wanted"
    )
