"""The committed sample and the script that made it."""

import numpy as np
import pandas as pd
import pytest
from servers import command

from wine_data import make_sample
from wine_quality import sources, splits
from wine_quality.schema import MEASUREMENTS, TARGET


@pytest.fixture(scope="module")
def sample():
    return sources.sample("a test").table


def test_it_has_as_many_wines_and_repeats_as_the_real_one_and_all_are_possible(sample):
    assert sample["type"].value_counts().to_dict() == {"white": 4898, "red": 1599}
    assert splits.distinct_rows(sample)["type"].value_counts().to_dict() == {"white": 3961, "red": 1359}
    assert (sample["free_sulfur_dioxide"] <= sample["total_sulfur_dioxide"]).all()
    assert sample[TARGET].between(3, 9).all()


def test_none_of_its_wines_is_real_and_its_means_are_near(sample, real_folder):
    real = sources.read_folder(real_folder, "folder", "real").table
    assert splits.leaked_fraction(real, sample) == 0
    means = [splits.distinct_rows(wines).groupby("type")[list(MEASUREMENTS)].mean() for wines in (sample, real)]
    assert ((means[0] / means[1] - 1).abs() < 0.02).all(axis=None)


def test_the_seed_makes_what_is_drawn_which_repeats_as_its_model_does_and_copies_none_of_it(sample):
    reds = sample[sample["type"] == "red"].head(400)
    first, again, other = (make_sample.sample_of(reds, seed) for seed in (1, 1, 2))
    pd.testing.assert_frame_equal(first, again)
    assert not first.equals(other)
    assert sorted(make_sample.copies(first)) == sorted(make_sample.copies(reds))
    assert splits.leaked_fraction(reds, first) == 0


@pytest.mark.parametrize(("values", "places"), [([1.0, 2.0], 0), ([0.5, 2.25], 2), ([0.99678, 1.0], 5)])
def test_a_column_is_rounded_as_it_is_written(values, places):
    assert make_sample.decimals(pd.Series(values)) == places


def test_what_is_written_is_read_back_the_same(sample, tmp_path):
    few = sample.groupby("type", sort=False).head(50).reset_index(drop=True)
    for name, colour in zip(sources.UCI_PAIR, ("red", "white"), strict=True):
        make_sample.write(few[few["type"] == colour], tmp_path / name)
    back = sources.read_folder(tmp_path, "folder", "written").table
    columns = [*MEASUREMENTS, TARGET]
    assert np.array_equal(back[columns], few[columns])


def test_the_sample_is_not_generated_from_itself():
    before = [(sources.SAMPLE / name).read_bytes() for name in sources.UCI_PAIR]
    done = command("wine_data.make_sample", WINE_DATA="sample")
    assert done.returncode == 1
    line = "the sample can't be generated from itself. Name the real data: make sample WINE_DATA=folder"
    assert done.stderr == f"error: {line}\n"
    assert [(sources.SAMPLE / name).read_bytes() for name in sources.UCI_PAIR] == before
