"""The benchmark of search algorithms, on a cheap objective."""

import numpy as np
import optuna
import pytest
from hyperopt.pyll.stochastic import sample
from joblib import Memory

from benchmarks import search
from wine_quality import tuning


def cheap(drawn: dict) -> dict:
    params = {name: value for name, value in drawn.items() if name != "name"}
    loss = sum(value for value in params.values() if not isinstance(value, str)) + len(drawn["name"])
    return {"name": drawn["name"], "params": params, "loss": loss, "status": "ok", "error": ""}


def losses(name: str, trials: int, seed: int) -> list[float]:
    return [trial.loss for trial in search.SEARCHES[name](cheap, trials, seed)]


@pytest.mark.parametrize("name", search.SEARCHES)
def test_a_longer_search_begins_with_the_trials_of_a_shorter_one(name):
    short, long = losses(name, 25, 1), losses(name, 30, 1)
    assert long[:25] == short
    assert losses(name, 25, 2) != short


def test_hyperopts_tpe_and_random_search_share_their_first_20_trials_only():
    tpe, random = losses("hyperopt", 25, 1), losses("random", 25, 1)
    assert tpe[:20] == random[:20]
    assert tpe[20:] != random[20:]


@pytest.mark.parametrize("name", tuning.default_space())
def test_optuna_draws_from_the_same_space_as_hyperopt(name):
    study, rng = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1)), np.random.default_rng(1)
    theirs = [drawn for drawn in (search.optuna_draw(study.ask()) for _ in range(400)) if drawn["name"] == name]
    space = tuning.hyperopt_space({name: tuning.default_space()[name]})
    ours = [{key: tuning.plain(value) for key, value in sample(space, rng).items()} for _ in range(len(theirs))]
    assert {frozenset(drawn) for drawn in theirs} == {frozenset(drawn) for drawn in ours}
    for parameter in ours[0]:
        both = ([drawn[parameter] for drawn in drawns] for drawns in (ours, theirs))
        ends, their_ends = ((min(values), max(values)) for values in both)
        assert ends == (pytest.approx(their_ends, rel=0.15) if not isinstance(ends[0], str) else their_ends)


def test_cached_results_are_reused_by_other_searches(tmp_path):
    calls = []

    def evaluate(drawn):
        calls.append(drawn)
        return cheap(drawn)

    for name in ("hyperopt", "hyperopt", "random"):
        search.SEARCHES[name](search.cached(evaluate, 1, Memory(tmp_path, verbose=0)), 20, 1)
    distinct = {str(sorted(drawn.items())) for drawn in calls}
    assert 0 < len(calls) == len(distinct) <= 20


@pytest.mark.parametrize(
    ("holds", "first"),
    [
        ([True, True], 1),
        ([False, True, False, True, True], 4),
        ([True, False], None),
        ([False, False], None),
    ],
)
def test_a_condition_lasts_from_the_trial_after_which_it_never_fails(holds, first):
    assert search.lasting(np.array(holds)) == first


def test_searches_are_compared_seed_by_seed():
    random = [{"losses": np.linspace(1 + seed, 0.5 + seed, 100)} for seed in range(5)]
    shifts = [0.1, 0.11, 0.12, 0.13, 0.14]
    ahead = [{"losses": one["losses"] - shift} for one, shift in zip(random, shifts, strict=True)]
    found = search.against_random(ahead, random)
    assert (found["ahead_from_trial"], found["surely_ahead_from_trial"]) == (1, 1)
    loss = found["loss"]["100"]
    assert loss["by_seed"] == pytest.approx([-shift for shift in shifts])
    half = 2.776445 * np.std(shifts, ddof=1) / np.sqrt(5)  # Student's t, four degrees of freedom
    assert [loss["low"], loss["mean"], loss["high"]] == pytest.approx([-0.12 - half, -0.12, -0.12 + half])


def test_the_interval_includes_zero_if_a_search_is_ahead_on_average_but_not_for_every_seed():
    random = [{"losses": [1.0] * 10} for _ in range(5)]
    mixed = [{"losses": [1.0 + shift] * 10} for shift in (-0.5, -0.4, 0.3, 0.2, 0.1)]
    found = search.interval((search.lowest(mixed) - search.lowest(random))[:, -1])
    assert found["low"] < found["mean"] < 0 < found["high"]
