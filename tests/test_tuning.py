import pandas as pd
import pytest

from wine_quality import data, tuning
from wine_quality.models import MODELS, build
from wine_quality.splits import distinct_wines


@pytest.fixture(scope="module")
def few_wines() -> pd.DataFrame:
    return distinct_wines(data.sample("a test").table).iloc[::40].reset_index(drop=True)


def test_the_same_seed_finds_the_same_choice(few_wines):
    first, second = (tuning.search(few_wines, 3, seed=5) for _ in range(2))
    assert first == second


def test_the_choice_builds_a_pipeline_of_full_size(few_wines):
    found = tuning.search(few_wines, 3, seed=5)
    assert MODELS[found.name].space
    assert build(found.name, 5, **found.params)["model"].get_params()["n_estimators"] >= 300


def test_the_search_returns_its_best_trial(few_wines, monkeypatch):
    losses = iter([0.9, 0.2, 0.7])
    seen = []

    def scored(_actual, _predicted):
        seen.append(next(losses))
        return seen[-1]

    monkeypatch.setattr(tuning, "root_mean_squared_error", scored)
    drawn = []
    monkeypatch.setattr(tuning, "cross_predict", lambda pipeline, *_: drawn.append(pipeline["model"]))
    found = tuning.search(few_wines, 3, seed=5)
    assert seen == [0.9, 0.2, 0.7]
    best = drawn[1].get_params()
    assert all(best[name] == pytest.approx(value) for name, value in found.params.items())
