import numpy as np
import pytest
from versions import few_sides

from wine_quality import comparison, tracking
from wine_quality.comparison import Gain, confidence, gains, refit_each, rejection_reason, seed_variance, tail
from wine_quality.metrics import gain_interval
from wine_quality.models import build, fit, predict, weighted_mean
from wine_quality.schema import TARGET
from wine_quality.slices import slices


@pytest.fixture(scope="module")
def sets():
    return few_sides()


def test_the_probabilities_of_a_false_promotion_add_up_to_five_percent():
    spent = np.cumsum([tail(use) for use in range(1, 100_001)])
    assert spent[0] == 0.025
    assert spent[-1] == pytest.approx(0.05, abs=1e-6)
    assert spent[-1] < 0.05
    levels = [confidence(use) for use in range(1, 30)]
    assert levels[0] == 0.95
    assert levels == sorted(set(levels)), "each further comparison has a higher level"


@pytest.mark.parametrize(
    ("gain", "low", "use", "reason"),
    [
        (0.01, 0.001, 1, ""),
        (0.003, 0.001, 1, ""),
        (0.0029, 0.001, 1, "its gain is below the minimum effect of 0.003"),
        (-0.01, -0.02, 1, "its gain is below the minimum effect of 0.003"),
        (0.01, 0.0, 1, "not significantly better (95 % level, comparison 1)"),
        (0.01, -0.001, 20, "not significantly better (99.98 % level, comparison 20)"),
    ],
)
def test_the_reason_for_a_rejection(gain, low, use, reason):
    assert rejection_reason(Gain(gain, low, 1), {}, use, 0.003) == reason


def test_a_challenger_that_is_significantly_worse_on_a_slice_is_rejected_and_the_slice_is_named():
    better, noise, small = Gain(0.02, 0.01, 0.03), Gain(-0.05, -0.11, 0.01), Gain(-0.002, -0.003, -0.001)
    assert rejection_reason(better, {"red": noise, "white": better, "quality 5 or 6": small}, 1, 0.003) == ""
    worse = {"red": Gain(-0.051, -0.08, -0.02), "white": better, "quality 0 to 4": Gain(-0.2, -0.3, -0.1)}
    expected = "significantly worse on red (RMSE higher by 0.051), quality 0 to 4 (RMSE higher by 0.200)"
    assert rejection_reason(better, worse, 1, 0.003) == expected


def test_each_slice_with_enough_rows_has_a_gain_with_an_interval_of_its_own_level(sets):
    train, gate_set = sets
    white = train.loc[train["type"] == "white"]
    champion, challenger = fit(build("linear", 1), train), fit(build("linear", 1), white)
    _, by_slice = gains(challenger, champion, train, gate_set, 1, 1)
    large = {name for name, mask in slices(gate_set).items() if mask.sum() >= comparison.MIN_SLICE}
    assert by_slice.keys() == large
    assert {"white", "quality 5 or 6"} <= large
    mask = slices(gate_set)["white"]
    actual, before, after = (
        some[mask] for some in (gate_set[TARGET].to_numpy(), predict(champion, gate_set), predict(challenger, gate_set))
    )
    assert by_slice["white"] == Gain(*gain_interval(actual, before, after, 0, 0.025 / len(large)))
    assert gains(challenger, None, train, gate_set, 1, 1)[1] == {}


def test_a_chain_of_equal_models_is_hardly_ever_promoted_though_an_interval_over_rows_often_excludes_zero():
    rng, rows = np.random.default_rng(5), 300
    promoted = by_rows_alone = 0
    for _ in range(100):
        actual = rng.normal(0, 0.7, rows)
        champion, *challengers = rng.normal(0, 0.1, (21, rows))  # what other seeds add to the same prediction
        variance = np.var(np.sqrt(np.mean((actual - np.array(challengers[:4])) ** 2, axis=1)), ddof=1)
        for use, challenger in enumerate(challengers, 1):
            gain, low, _ = gain_interval(actual, champion, challenger, 2 * variance, tail(use))
            promoted += not rejection_reason(Gain(gain, low, 1), {}, use, 0)
            by_rows_alone += gain_interval(actual, champion, challenger, 0, 0.025)[1] > 0
    assert by_rows_alone >= 20
    assert promoted <= 5


@pytest.mark.parametrize(
    ("name", "params"), [("random_forest", {"n_estimators": 10}), ("xgboost", {"n_estimators": 20})]
)
def test_the_variance_between_seeds_is_that_of_models_fitted_with_other_seeds(name, params, sets):
    train, gate_set = sets
    actual = gate_set[TARGET].to_numpy()
    predictions = [predict(fit(build(name, seed, **params), train), gate_set) for seed in range(20)]
    spread = np.std([np.sqrt(np.mean((actual - one) ** 2)) for one in predictions], ddof=1)
    found = [seed_variance(build(name, 1, **params), train, gate_set, seed) for seed in range(5)]
    assert np.mean(found) ** 0.5 == pytest.approx(spread, rel=0.5)
    assert found[0] == seed_variance(fit(build(name, 99, **params), train), train, gate_set, 0), (
        "its own seed does not matter"
    )
    for without_seed in ("linear", "svr"):
        assert seed_variance(build(without_seed, 1), *sets, seed=1) == 0


def test_pipelines_that_differ_only_in_the_seed_share_their_refits(sets, monkeypatch, tmp_path):
    def count_fit(pipeline, train):
        fits.append(pipeline)
        return fit(pipeline, train)

    fits, cases = [], ((1, None), (2, None), (1, 1))
    one, other, stump = (
        fit(build("random_forest", seed, n_estimators=4, max_depth=depth), sets[0]) for seed, depth in cases
    )
    loaded = tracking.load_model(tracking.save_model(other, tmp_path / "m.skops"))
    of_one, of_stump = (comparison.refitted_predictions(pipeline, *sets, seed=1) for pipeline in (one, stump))
    monkeypatch.setattr(comparison, "fit", count_fit)
    assert np.array_equal(refit_each([one, loaded], *sets, seed=1), [of_one, of_one])
    assert len(fits) == comparison.REFITS
    assert np.array_equal(refit_each([one, stump], *sets, seed=1), [of_one, of_stump])
    assert len(fits) == 3 * comparison.REFITS


def test_the_seeds_within_a_blend_are_changed_too():
    blend = weighted_mean([(name, build(name, 1)) for name in ("extra_trees", "svr")])
    changed = comparison.with_seed(blend, 7).get_params()
    assert changed["model__extra_trees__model__random_state"] == 7
    assert changed["model__svr__scale__random_state"] is None


def test_refitting_only_the_forest_of_a_blend_gives_the_variance_of_whole_blends(sets, monkeypatch):
    train, gate_set = sets
    parts = [("extra_trees", build("extra_trees", 1, n_estimators=5)), ("svr", build("svr", 1))]
    blend, actual = fit(weighted_mean(parts, [3.0, 1.0]), train), gate_set[TARGET].to_numpy()
    others = [int(one) for one in np.random.SeedSequence(5).generate_state(comparison.REFITS)]
    whole = [predict(fit(comparison.with_seed(blend, seed), train), gate_set) for seed in others]
    errors = [np.sqrt(np.mean((actual - one) ** 2)) for one in whole]
    fits = []
    monkeypatch.setattr(comparison, "fit", lambda pipeline, rows: fits.append(pipeline) or fit(pipeline, rows))
    assert seed_variance(blend, train, gate_set, 5) == pytest.approx(np.var(errors, ddof=1))
    assert [type(one["model"]).__name__ for one in fits] == ["ExtraTreesRegressor"] * comparison.REFITS
