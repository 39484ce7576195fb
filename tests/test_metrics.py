import numpy as np
import pytest

from wine_quality.metrics import gain_interval, r2_interval, rmse_gain, scores


def test_a_perfect_prediction_has_the_best_scores():
    actual = np.array([3, 5, 6, 8])
    assert scores(actual, actual.astype(float)) == {
        "rmse": 0, "mae": 0, "r2": 1, "accuracy": 1, "within_1": 1, "qwk": 1,
    }  # fmt: skip


def test_each_score_by_hand():
    result = scores(np.array([4, 5, 6, 7]), np.array([4.4, 6.4, 5.9, 4.0]))
    assert result["rmse"] == pytest.approx(np.sqrt((0.16 + 1.96 + 0.01 + 9) / 4))
    assert result["mae"] == pytest.approx((0.4 + 1.4 + 0.1 + 3) / 4)
    assert result["r2"] == pytest.approx(1 - 11.13 / 5)
    assert (result["accuracy"], result["within_1"]) == (0.5, 0.75)
    assert result["qwk"] == pytest.approx(1 - 10 / (np.subtract.outer([4, 5, 6, 7], [4, 6, 6, 4]) ** 2).sum() * 4)


def test_the_gain_of_a_better_model_is_above_zero_with_its_whole_interval():
    rng = np.random.default_rng(0)
    actual = rng.normal(6, 1, 500)
    gain, low, high = rmse_gain(actual, actual + rng.normal(0, 1, 500), actual + rng.normal(0, 0.5, 500), seed=1)
    assert 0 < low < gain < high
    assert gain == pytest.approx(0.5, abs=0.1)


def test_the_gain_of_an_equal_model_is_zero_and_of_a_like_one_is_not_sure():
    rng = np.random.default_rng(0)
    actual, noise = rng.normal(6, 1, 500), rng.normal(0, 1, 500)
    assert rmse_gain(actual, actual + noise, actual + noise, seed=1) == (0, 0, 0)
    _, low, high = rmse_gain(actual, actual + noise, actual + rng.permutation(noise), seed=1)
    assert low < 0 < high


def test_the_interval_covers_the_true_gain_as_often_as_it_says():
    rng, covered = np.random.default_rng(7), 0
    for seed in range(200):
        errors = rng.normal(0, [1, 0.9], (300, 2))
        _, low, high = rmse_gain(np.zeros(300), errors[:, 0], errors[:, 1], seed, draws=400)
        covered += low <= 0.1 <= high
    assert 0.90 <= covered / 200 <= 0.99


def test_the_interval_of_r2_holds_it_and_is_narrower_for_more_wines():
    rng = np.random.default_rng(0)
    actual = rng.normal(6, 1, 4000)
    predicted = actual + rng.normal(0, 0.5, 4000)
    r2, low, high = r2_interval(actual, predicted, seed=1)
    assert r2 == pytest.approx(0.75, abs=0.03)
    assert low < r2 < high
    _, low_of_few, high_of_few = r2_interval(actual[:100], predicted[:100], seed=1)
    assert high - low < (high_of_few - low_of_few) / 3


def test_the_interval_of_r2_covers_the_true_one_as_often_as_it_says():
    rng, covered = np.random.default_rng(7), 0
    for seed in range(200):
        actual = rng.normal(0, 1, 300)
        _, low, high = r2_interval(actual, actual + rng.normal(0, 0.6, 300), seed, draws=400)
        covered += low <= 1 - 0.6**2 <= high
    assert 0.90 <= covered / 200 <= 0.99


def test_the_interval_of_the_gate_is_that_of_the_bootstrap_where_seeds_do_not_vary():
    rng = np.random.default_rng(0)
    actual = rng.normal(6, 1, 1000)
    models = actual + rng.normal(0, 0.7, 1000), actual + rng.normal(0, 0.65, 1000)
    assert gain_interval(actual, *models, 0, 0.025) == pytest.approx(rmse_gain(actual, *models, seed=1), rel=0.1)


def test_the_interval_of_the_gate_widens_with_the_variance_between_seeds_and_with_the_level():
    rng = np.random.default_rng(0)
    actual = rng.normal(6, 1, 1000)
    models = actual + rng.normal(0, 0.7, 1000), actual + rng.normal(0, 0.65, 1000)
    _, low, high = gain_interval(actual, *models, 0, 0.025)
    error = (high - low) / 2 / 1.96
    _, wide_low, wide_high = gain_interval(actual, *models, 0.03**2, 0.025)
    assert (wide_high - wide_low) / 2 == pytest.approx(1.96 * np.hypot(error, 0.03), rel=1e-3)
    _, strict_low, strict_high = gain_interval(actual, *models, 0, 0.0005)
    assert (strict_high - strict_low) / 2 == pytest.approx(3.29 * error, rel=1e-3)


def test_two_perfect_models_gain_nothing_over_each_other():
    actual = np.array([3.0, 5, 8])
    assert gain_interval(actual, actual, actual, 0, 0.025) == (0, 0, 0)
