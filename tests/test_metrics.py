import numpy as np
import pytest

from wine_quality.metrics import gain_interval, r2_interval, rmse_gain, scores


def models(rows, champion=1.0, challenger=0.5):
    """Return labels and the predictions of two models, whose errors have the given standard deviations."""
    rng = np.random.default_rng(0)
    actual = rng.normal(6, 1, rows)
    return actual, actual + rng.normal(0, champion, rows), actual + rng.normal(0, challenger, rows)


def test_each_metric_is_the_best_for_a_perfect_prediction_and_otherwise_as_calculated_by_hand():
    actual = np.array([3, 5, 6, 8])
    assert scores(actual, actual * 1.0) == {"rmse": 0, "mae": 0, "r2": 1, "accuracy": 1, "within_1": 1, "qwk": 1}
    by_hand = {
        "rmse": np.sqrt((0.16 + 1.96 + 0.01 + 9) / 4),
        "mae": (0.4 + 1.4 + 0.1 + 3) / 4,
        "r2": 1 - 11.13 / 5,
        "accuracy": 0.5,
        "within_1": 0.75,
        "qwk": 1 - 10 / (np.subtract.outer([4, 5, 6, 7], [4, 6, 6, 4]) ** 2).sum() * 4,
    }
    assert scores(np.array([4, 5, 6, 7]), np.array([4.4, 6.4, 5.9, 4.0])) == pytest.approx(by_hand)


def test_the_interval_of_the_gain_excludes_zero_for_a_better_model_but_not_for_one_that_is_as_good():
    actual, champion, better = models(500)
    gain, low, high = rmse_gain(actual, champion, better, seed=1)
    assert 0 < low < gain < high
    assert gain == pytest.approx(0.5, abs=0.1)
    assert rmse_gain(actual, champion, champion, seed=1) == (0, 0, 0)
    noise = np.random.default_rng(1).permutation(champion - actual)
    _, low, high = rmse_gain(actual, champion, actual + noise, seed=1)
    assert low < 0 < high
    assert gain_interval(actual, actual, actual, 0, 0.025) == (0, 0, 0)


def test_the_intervals_cover_the_true_value_as_often_as_they_say():
    rng, covered = np.random.default_rng(7), np.zeros(2)
    for seed in range(200):
        errors = rng.normal(0, [1, 0.9], (300, 2))
        _, low, high = rmse_gain(np.zeros(300), errors[:, 0], errors[:, 1], seed, draws=400)
        actual = rng.normal(0, 1, 300)
        _, r2_low, r2_high = r2_interval(actual, actual + rng.normal(0, 0.6, 300), seed, draws=400)
        covered += low <= 0.1 <= high, r2_low <= 1 - 0.6**2 <= r2_high
    assert ((covered / 200 >= 0.90) & (covered / 200 <= 0.99)).all()


def test_the_interval_of_r2_contains_it_and_is_narrower_for_more_rows():
    actual, _, predicted = models(4000)
    r2, low, high = r2_interval(actual, predicted, seed=1)
    assert r2 == pytest.approx(0.75, abs=0.03)
    assert low < r2 < high
    _, low_of_few, high_of_few = r2_interval(actual[:100], predicted[:100], seed=1)
    assert high - low < (high_of_few - low_of_few) / 3


def test_the_interval_of_the_gate_agrees_with_the_bootstrap_and_widens_with_the_seeds_and_the_level():
    table = models(1000, 0.7, 0.65)
    gain, low, high = gain_interval(*table, 0, 0.025)
    assert (gain, low, high) == pytest.approx(rmse_gain(*table, seed=1), rel=0.1)
    error = (high - low) / 2 / 1.96
    _, low, high = gain_interval(*table, 0.03**2, 0.025)
    assert (high - low) / 2 == pytest.approx(1.96 * np.hypot(error, 0.03), rel=1e-3)
    _, low, high = gain_interval(*table, 0, 0.0005)
    assert (high - low) / 2 == pytest.approx(3.29 * error, rel=1e-3)
