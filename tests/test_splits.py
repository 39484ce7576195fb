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
def many_wines(wines) -> pd.DataFrame:
    """The six rows, each with 50 different alcohol levels: 300 distinct rows."""
    extra = np.arange(50) / 100
    return pd.concat([wines.assign(alcohol=wines["alcohol"] + more) for more in extra], ignore_index=True)


@pytest.fixture(scope="session")
def real_wines(real_folder) -> pd.DataFrame:
    return load_dataset(settings(data=str(real_folder))).table


def test_a_row_key_is_the_same_on_every_machine_and_ignores_order_and_float_noise(wines):
    keys = row_keys(wines)
    assert keys[0] == "20c84e3599a4fc05"
    shuffled = wines.sample(frac=1, random_state=1, axis="index").sample(frac=1, random_state=1, axis="columns")
    assert row_keys(shuffled).equals(keys[shuffled.index])
    noisy = wines.assign(**{name: wines[name] * (1 + 1e-12) for name in MEASUREMENTS})
    assert not noisy.equals(wines)
    assert row_keys(noisy).equals(keys)
    assert row_keys(wines.assign(citric_acid=-0.0)).equals(row_keys(wines.assign(citric_acid=0.0)))


def test_rows_are_distinct_if_a_measurement_or_the_type_differs_but_not_if_only_quality_does(wines):
    for column in MEASUREMENTS:
        assert not leaked(wines, wines.assign(**{column: wines[column] + 0.00001})).any(), column
    assert not leaked(wines, wines.assign(type=wines["type"].map({"red": "white", "white": "red"}))).any()
    assert leaked(wines, wines.assign(quality=9)).all()


def test_distinct_rows_are_in_order_of_appearance_and_complete_rows_are_preferred(wines):
    twice = pd.concat([wines, wines.iloc[::-1]]).set_axis(range(10, 22))
    assert_frame_equal(distinct_rows(twice).reset_index(drop=True), wines)
    copy = wines.iloc[[0]].assign(pH=np.nan, alcohol=np.nan)
    assert_frame_equal(distinct_rows(pd.concat([copy, wines])).reset_index(drop=True), wines)


def test_a_row_with_a_blank_is_not_dropped_if_no_complete_row_matches_it(wines):
    alone = wines.iloc[[0]].assign(pH=np.nan, alcohol=14)
    for table in (pd.concat([wines, alone], ignore_index=True), wines.assign(pH=np.nan)):
        assert_frame_equal(distinct_rows(table).reset_index(drop=True), table)


@pytest.mark.parametrize(("known", "share"), [(0, 0.0), (1, 0.25), (3, 0.75), (4, 1.0)])
def test_the_leaked_fraction_is_the_share_of_scored_rows_in_the_training_set(wines, known, share):
    assert leaked_fraction(wines.iloc[:known], wines.iloc[:4]) == share


def test_a_leak_raises_an_error_with_its_size(wines):
    train, scored = wines.iloc[:4], wines.iloc[3:]
    assert_no_leak(train.iloc[:3], scored)
    with pytest.raises(LeakError) as caught:
        assert_no_leak(train, scored, "fold 1")
    assert str(caught.value).startswith("fold 1: 1 of 3 rows to score (33.33%) are also in the training set, so ")


@pytest.mark.parametrize("copies", [1, 3])
def test_the_gate_set_is_about_a_fifth_and_duplicates_are_in_the_same_set(many_wines, copies):
    table = pd.concat([many_wines] * copies)
    train, gate_set = train_gate_split(table)
    assert len(train) + len(gate_set) == len(table)
    assert 0.15 < len(gate_set) / len(table) < 0.25
    assert_no_leak(train, gate_set)


def test_a_row_stays_in_its_set_as_the_dataset_grows_unlike_in_a_random_split(many_wines):
    few, shuffled = many_wines.iloc[:100], many_wines.sample(frac=1, random_state=1)
    for part_of_few, part_of_all in zip(train_gate_split(few), train_gate_split(shuffled), strict=True):
        assert leaked(part_of_all, part_of_few).all()
    random_of_few, random_of_all = (table.sample(frac=0.2, random_state=1) for table in (few, many_wines))
    assert leaked_fraction(random_of_all, random_of_few) < 0.6


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_rows_to_split_raise_an_error(wines, count):
    with pytest.raises(DataError, match=rf"^{count} distinct rows are too few to split\. Give more rows\.$"):
        train_gate_split(wines.iloc[:count])


def test_an_unbalanced_gate_set_raises_an_error(many_wines, monkeypatch):
    keys = many_wines["type"].map({"red": "0" * 16, "white": "f" * 16})
    monkeypatch.setattr("wine_quality.splits.row_keys", lambda _rows: keys)
    line = r"^the gate set is unlike the training set in type and quality \(p = .*e-\d+\)"
    with pytest.raises(DataError, match=line):
        train_gate_split(many_wines)


def test_the_balance_of_similar_sets_is_one_and_of_different_sets_near_zero(wines):
    many = pd.concat([wines] * 10)
    assert split_balance(many, wines) == pytest.approx(1)
    assert split_balance(many.query("type == 'red'"), many.query("type == 'white'")) < 1e-6


def test_each_row_is_scored_in_exactly_one_fold_by_a_model_not_fitted_on_it(many_wines):
    pairs = folds(many_wines, seed=1)
    assert len(pairs) == 5
    assert sorted(np.concatenate([score for _, score in pairs])) == list(range(len(many_wines)))
    assert all(set(fit).isdisjoint(score) for fit, score in pairs)
    first, again, other = ([score.tolist() for _, score in folds(many_wines, seed)] for seed in (1, 1, 2))
    assert first == again
    assert first != other
    mixes = [many_wines["quality"].iloc[score].value_counts().sort_index().tolist() for _, score in pairs]
    assert mixes == [[10, 10, 20, 20]] * 5


@pytest.mark.parametrize("quality", [[3, 4, 5, 6, 7, 8], [5, 5, 5, 5, 5, 9], [6] * 6])
def test_rare_qualities_do_not_prevent_folds(wines, quality):
    assert [len(score) for _, score in folds(wines.assign(quality=quality), 1)] == [2, 1, 1, 1, 1]


def test_too_few_rows_for_folds_raise_an_error(wines):
    with pytest.raises(DataError, match=r"^4 rows are too few for 5 folds\. Give more rows\.$"):
        folds(wines.iloc[:4], 1)


def test_the_kaggle_training_file_contains_98_98_percent_of_the_validation_file(real_wines, real_folder):
    train, validation = pair = [read_table(real_folder / name) for name in KAGGLE_PAIRS[1]]
    assert leaked(train, validation).sum() == 6431
    assert leaked_fraction(train, validation) == pytest.approx(0.9898, abs=0.00005)
    assert len(real_wines) == 6497
    uci, kaggle = distinct_rows(real_wines), distinct_rows(pd.concat(pair, ignore_index=True))
    assert len(uci) == len(kaggle) == 5320
    assert set(row_keys(kaggle)) == set(row_keys(uci))


def test_a_random_split_of_the_real_rows_leaks_and_ours_does_not(real_wines):
    scored = real_wines.sample(frac=0.2, random_state=1)
    assert leaked_fraction(real_wines.drop(scored.index), scored) > 0.2
    train, gate_set = train_gate_split(distinct_rows(real_wines))
    assert leaked_fraction(train, gate_set) == 0
    assert 0.19 < len(gate_set) / 5320 < 0.21
    assert split_balance(train, gate_set) > 0.01
