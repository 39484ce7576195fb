"""Which thresholds are crossed, and when to retrain."""

from dataclasses import replace

import numpy as np
import pytest

from wine_quality import thresholds
from wine_quality.thresholds import Alert, Coverage, ModelQuality, MonitoringResult

CALM = MonitoringResult("week 01", "1", requests=100, rejected=1, predictions=99, drift_share=0.1)
BAD, DRIFT, QUALITY = Alert("bad data", "…"), Alert("drift", "…"), Alert("quality", "…")
COVERAGE = Alert("coverage", "…")
MISSING = Alert("missing data", "sulphates: measured in 0 of 300 rows")


@pytest.mark.parametrize(
    ("changed", "kinds"),
    [
        ({}, []),
        ({"rejected": 5}, []),
        ({"rejected": 6}, ["bad data"]),
        ({"requests": None, "rejected": None}, []),
        ({"requests": 0, "rejected": 0}, []),
        ({"drift_share": 3 / 11, "drifted": ["alcohol (red)"]}, []),
        ({"drift_share": 4 / 11, "drifted": ["alcohol (red)"]}, ["drift"]),
        ({"type_drift": True, "drifted": ["type"]}, ["drift"]),
        ({"coverage": Coverage(150, 0.8, 0.73, 0.86)}, []),
        ({"coverage": Coverage(150, 0.78, 0.70, 0.84)}, ["coverage"]),
        ({"coverage": Coverage(150, 0.98, 0.96, 0.99)}, ["coverage"]),
        ({"drift_share": None}, []),
        ({"quality": ModelQuality(150, 0.8, 0.70, 0.9, 0.67)}, []),
        ({"quality": ModelQuality(150, 0.8, 0.71, 0.9, 0.67)}, ["quality"]),
        ({"missing": ["sulphates: measured in 0 of 300 rows"]}, ["missing data"]),
    ],
)
def test_each_crossed_threshold_is_an_alert(changed, kinds):
    assert [alert.kind for alert in thresholds.alerts(replace(CALM, **changed))] == kinds


def test_messages_contain_the_figures():
    (alert,) = thresholds.alerts(replace(CALM, version="2", quality=ModelQuality(150, 0.8, 0.75, 0.9, 0.67)))
    assert alert.message == "the RMSE of version 2 on 150 labels is 0.800 (0.750 to 0.900), and 0.670 on its gate set"
    assert thresholds.alerts(replace(CALM, missing=[MISSING.message])) == [MISSING]
    (alert,) = thresholds.alerts(replace(CALM, coverage=Coverage(150, 0.78, 0.70, 0.84)))
    assert alert.message == "the 90% intervals of version 1 hold for 78% (70% to 84%) of 150 labelled rows"
    (alert,) = thresholds.alerts(replace(CALM, type_drift=True, drifted=["type"], reference="the first 3 weeks"))
    assert alert.message == "1 column differs from the first 3 weeks: type"


def test_the_error_is_measured_on_the_newest_labels():
    labels, scores = np.full(400, 5.0), np.repeat([9.0, 5.5], [250, 150])
    quality = thresholds.model_quality(labels, scores, 0.6, seed=1)
    assert quality.rows == 150
    assert (quality.rmse, quality.low, quality.high) == pytest.approx((0.5, 0.5, 0.5))


def test_the_interval_is_as_wide_as_theory_says():
    noise = np.random.default_rng(1).normal(0, 1, 150)
    quality = thresholds.model_quality(np.zeros(150), noise, 1.0, seed=1)
    half = 1.96 / np.sqrt(2 * 150)  # of the root mean square of normal errors
    assert quality.high - quality.low == pytest.approx(2 * half, rel=0.2)


def test_with_fewer_than_forty_labels_the_error_is_not_measured():
    assert thresholds.model_quality(np.zeros(39), np.ones(39), 0.6, seed=1) is None
    assert thresholds.model_quality(np.zeros(40), np.ones(40), 0.6, seed=1).degraded


def test_the_coverage_is_measured_on_the_newest_labels_with_an_interval():
    labels, low = np.full(400, 5.0), np.repeat([6.0, 4.0, np.nan], [200, 150, 50])
    assert thresholds.interval_coverage(labels, low, low + 1.5) == Coverage(
        150, 1.0, pytest.approx(0.976, abs=1e-3), 1.0
    )
    low[340:350] = 6
    coverage = thresholds.interval_coverage(labels, low, low + 1.5)
    assert (coverage.share, coverage.off) == (pytest.approx(140 / 150), False)
    assert thresholds.interval_coverage(labels[:39], low[:39], low[:39]) is None


@pytest.mark.parametrize(
    ("crossed", "rows", "trigger", "reason"),
    [
        ([], 2000, "", "no threshold crossed"),
        ([DRIFT], 1100, "", "too few new labels: 100 more labelled rows (+10%), 50% needed"),
        ([DRIFT], 1499, "", "too few new labels: "),
        ([DRIFT], 1500, "drift", "drift, and 500 more labelled rows than at the last training (+50%)"),
        ([QUALITY], 1333, "", "too few new labels: "),
        ([QUALITY], 1334, "quality", "quality, and 334 "),
        ([DRIFT, QUALITY], 1334, "quality", "quality, and "),
        ([DRIFT, QUALITY], 2000, "quality", "quality, and "),
        ([BAD, DRIFT, QUALITY], 2000, "", "bad data must be fixed at its source"),
        ([MISSING], 2000, "", "missing data is no reason to retrain"),
        ([MISSING, COVERAGE], 2000, "", "coverage and missing data is no reason to retrain"),
        ([MISSING, DRIFT], 1100, "", "too few new labels: "),
        ([MISSING, DRIFT], 2000, "drift", "drift, and "),
    ],
)
def test_retraining_needs_enough_new_labels(crossed, rows, trigger, reason):
    found = thresholds.retraining(crossed, rows, 1000)
    assert found[0] == trigger
    assert found[1].startswith(reason)
