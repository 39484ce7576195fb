from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

from wine_quality.config import settings
from wine_quality.errors import DataError, LeakError
from wine_quality.schema import MEASUREMENTS
from wine_quality.sources import KAGGLE_PAIRS, load_dataset
from wine_quality.splits import (
    assert_no_leak,
    distinct_rows,
    folds,
    leaked,
    leaked_fraction,
    row_keys,
    split_balance,
    train_gate_split,
)
from wine_quality.tables import read_table


@pytest.fixture
def cellar(wines) -> pd.DataFrame:
    """The six wines in 50 strengths each: 300 wines, no two alike."""
    strengths = np.arange(50) / 100
    return pd.concat([wines.assign(alcohol=wines["alcohol"] + more) for more in strengths], ignore_index=True)


@pytest.fixture(scope="session")
def real_wines(real_folder) -> pd.DataFrame:
    return load_dataset(settings(data=str(real_folder))).table


@pytest.fixture(scope="session")
def real_pair(real_folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    return tuple(read_table(real_folder / name).reset_index(drop=True) for name in KAGGLE_PAIRS[1])


def test_the_key_of_a_wine_is_the_same_on_every_machine(wines):
    assert row_keys(wines)[0] == "20c84e3599a4fc05"


def test_the_key_knows_nothing_of_rows_columns_and_float_noise(wines):
    keys = row_keys(wines)
    shuffled = wines.sample(frac=1, random_state=1, axis="index").sample(frac=1, random_state=1, axis="columns")
    assert row_keys(shuffled).sort_index().equals(keys)
    noisy = wines.assign(**{name: wines[name] * (1 + 1e-12) for name in MEASUREMENTS})
    assert not noisy.equals(wines)
    assert row_keys(noisy).equals(keys)
    assert row_keys(wines.assign(citric_acid=-0.0)).equals(row_keys(wines.assign(citric_acid=0.0)))


@pytest.mark.parametrize("column", MEASUREMENTS)
def test_a_wine_with_one_other_measurement_is_another_wine(wines, column):
    other = wines.assign(**{column: wines[column] + 0.00001})
    assert not leaked(wines, other).any()


def test_type_makes_another_wine_and_quality_does_not(wines):
    assert not leaked(wines, wines.assign(type=wines["type"].map({"red": "white", "white": "red"}))).any()
    assert leaked(wines, wines.assign(quality=9)).all()


def test_each_wine_is_kept_once_in_order_of_appearance(wines):
    twice = pd.concat([wines, wines.iloc[::-1]]).set_axis(range(10, 22))
    assert_frame_equal(distinct_rows(twice), wines)


def test_a_blank_copy_of_a_complete_wine_is_that_wine(wines):
    copy = wines.iloc[[0]].assign(pH=np.nan, alcohol=np.nan)
    assert_frame_equal(distinct_rows(pd.concat([copy, wines])), wines)


def test_a_wine_with_a_blank_and_no_complete_twin_is_kept(wines):
    alone = wines.iloc[[0]].assign(pH=np.nan, alcohol=14)
    both = pd.concat([wines, alone], ignore_index=True)
    assert_frame_equal(distinct_rows(both), both)
    only_blank = wines.assign(pH=np.nan)
    assert_frame_equal(distinct_rows(only_blank), only_blank)


@pytest.mark.parametrize(("known", "share"), [(0, 0.0), (1, 0.25), (3, 0.75), (4, 1.0)])
def test_the_leaked_share_is_that_of_scored_wines_also_trained_on(wines, known, share):
    assert leaked_fraction(wines.iloc[:known], wines.iloc[:4]) == share


def test_a_leak_is_told_with_its_size(wines):
    train, scored = wines.iloc[:4], wines.iloc[3:]
    assert_no_leak(train.iloc[:3], scored)
    with pytest.raises(LeakError) as caught:
        assert_no_leak(train, scored, "fold 1")
    assert str(caught.value).startswith("fold 1: 1 of 3 scored wines (33.33%) are also trained on, so the score would ")


def test_the_gate_set_is_about_a_fifth_and_shares_no_wine_with_the_rest(cellar):
    train, gate_set = train_gate_split(cellar)
    assert len(train) + len(gate_set) == len(cellar)
    assert 0.15 < len(gate_set) / len(cellar) < 0.25
    assert_no_leak(train, gate_set)


def test_repeats_of_a_wine_all_fall_on_one_side(cellar):
    train, gate_set = train_gate_split(pd.concat([cellar] * 3))
    assert_no_leak(train, gate_set)


def test_a_wine_never_changes_side_as_data_grows(cellar):
    few, shuffled = cellar.iloc[:100], cellar.sample(frac=1, random_state=1)
    for side_of_few, side_of_all in zip(train_gate_split(few), train_gate_split(shuffled), strict=True):
        assert leaked(side_of_all, side_of_few).all()


def test_a_random_split_is_not_stable_so_the_test_above_can_fail(cellar):
    held_of_few = cellar.iloc[:100].sample(frac=0.2, random_state=1)
    held_of_all = cellar.sample(frac=0.2, random_state=1)
    assert leaked_fraction(held_of_all, held_of_few) < 0.6


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_wines_to_split_are_told(wines, count):
    with pytest.raises(DataError, match=rf"^{count} distinct wines are too few to split\. Give more wines\.$"):
        train_gate_split(wines.iloc[:count])


def test_a_gate_set_unlike_the_rest_is_told(cellar, monkeypatch):
    keys = cellar["type"].map({"red": "0" * 16, "white": "f" * 16})
    monkeypatch.setattr("wine_quality.splits.row_keys", lambda _wines: keys)
    with pytest.raises(
        DataError, match=r"^the gate set is unlike the training side in type and quality \(p = .*e-\d+\)"
    ):
        train_gate_split(cellar)


def test_the_balance_of_like_sides_is_one_and_of_unlike_sides_near_zero(wines):
    many = pd.concat([wines] * 10)
    assert split_balance(many, wines) == pytest.approx(1)
    assert split_balance(many.query("type == 'red'"), many.query("type == 'white'")) < 1e-6


def test_each_wine_is_scored_in_one_fold_and_never_by_a_model_fitted_on_it(cellar):
    pairs = folds(cellar, seed=1)
    assert len(pairs) == 5
    assert sorted(np.concatenate([score for _, score in pairs])) == list(range(len(cellar)))
    assert all(set(fit).isdisjoint(score) for fit, score in pairs)


def test_the_seed_makes_the_folds(cellar):
    first, again, other = ([score.tolist() for _, score in folds(cellar, seed)] for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_each_fold_has_the_same_mix_of_qualities(cellar):
    mixes = [cellar["quality"].iloc[score].value_counts().sort_index().tolist() for _, score in folds(cellar, 1)]
    assert mixes == [[10, 10, 20, 20]] * 5


@pytest.mark.parametrize("quality", [[3, 4, 5, 6, 7, 8], [5, 5, 5, 5, 5, 9], [6] * 6])
def test_rare_qualities_do_not_hinder_the_folds(wines, quality):
    assert [len(score) for _, score in folds(wines.assign(quality=quality), 1)] == [2, 1, 1, 1, 1]


def test_too_few_wines_for_folds_are_told(wines):
    with pytest.raises(DataError, match=r"^4 wines are too few for 5 folds\. Give more wines\.$"):
        folds(wines.iloc[:4], 1)


def test_the_real_wines_are_5320(real_wines):
    assert len(real_wines) == 6497
    assert len(distinct_rows(real_wines)) == 5320


def test_the_kaggle_pair_holds_the_same_5320_wines(real_wines, real_pair):
    found = distinct_rows(pd.concat(real_pair, ignore_index=True))
    assert len(found) == 5320
    assert set(row_keys(found)) == set(row_keys(distinct_rows(real_wines)))


def test_the_kaggle_training_file_holds_98_98_percent_of_the_validation_file(real_pair):
    train, validation = real_pair
    assert leaked(train, validation).sum() == 6431
    assert leaked_fraction(train, validation) == pytest.approx(0.9898, abs=0.00005)


def test_a_random_split_of_the_real_rows_leaks_and_ours_does_not(real_wines):
    scored = real_wines.sample(frac=0.2, random_state=1)
    assert leaked_fraction(real_wines.drop(scored.index), scored) > 0.2
    train, gate_set = train_gate_split(distinct_rows(real_wines))
    assert leaked_fraction(train, gate_set) == 0
    assert 0.19 < len(gate_set) / 5320 < 0.21
    assert split_balance(train, gate_set) > 0.01
