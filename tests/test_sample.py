"""The committed sample and the script that made it."""

import importlib.util
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from wine_quality import sources, splits
from wine_quality.schema import MEASUREMENTS, TARGET

SCRIPT = sources.ROOT / "wine_data" / "make_sample.py"


@pytest.fixture(scope="module")
def made():
    return sources.sample("a test").table


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("make_sample", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_it_has_as_many_wines_and_repeats_as_the_real_one(made):
    assert made["type"].value_counts().to_dict() == {"white": 4898, "red": 1599}
    assert splits.distinct_rows(made)["type"].value_counts().to_dict() == {"white": 3961, "red": 1359}


def test_its_wines_are_possible(made):
    assert (made["free_sulfur_dioxide"] <= made["total_sulfur_dioxide"]).all()
    assert made[TARGET].between(3, 9).all()


def test_none_of_its_wines_is_real_and_its_means_are_near(made, real_folder):
    real = sources.read_folder(real_folder, "folder", "real").table
    assert splits.leaked_fraction(real, made) == 0
    real, made = splits.distinct_rows(real), splits.distinct_rows(made)
    columns = list(MEASUREMENTS)
    near = made.groupby("type")[columns].mean() / real.groupby("type")[columns].mean() - 1
    assert (near.abs() < 0.02).all(axis=None)


def test_the_same_seed_draws_the_same_wines_and_another_others(script, made):
    reds = made[made["type"] == "red"].head(400)
    first, again, other = (script.sample_of(reds, seed) for seed in (1, 1, 2))
    pd.testing.assert_frame_equal(first, again)
    assert not first.equals(other)


def test_what_is_drawn_repeats_as_its_model_does_and_copies_none_of_it(script, made):
    reds = made[made["type"] == "red"].head(400)
    drawn = script.sample_of(reds, 1)
    assert sorted(script.copies(drawn)) == sorted(script.copies(reds))
    assert splits.leaked_fraction(reds, drawn) == 0


@pytest.mark.parametrize(("values", "places"), [([1.0, 2.0], 0), ([0.5, 2.25], 2), ([0.99678, 1.0], 5)])
def test_a_column_is_rounded_as_it_is_written(script, values, places):
    assert script.decimals(pd.Series(values)) == places


def test_what_is_written_is_read_back_the_same(script, made, tmp_path):
    for name, colour in zip(sources.UCI_PAIR, ("red", "white"), strict=True):
        script.write(made[made["type"] == colour].head(50), tmp_path / name)
    back = sources.read_folder(tmp_path, "folder", "written").table
    few = made.groupby("type", sort=False).head(50).reset_index(drop=True)
    assert np.array_equal(back[list(MEASUREMENTS)], few[list(MEASUREMENTS)])
    assert back[TARGET].tolist() == few[TARGET].tolist()


def test_the_sample_is_not_made_of_itself(monkeypatch):
    monkeypatch.setenv("WINE_DATA", "sample")
    before = [(sources.SAMPLE / name).read_bytes() for name in sources.UCI_PAIR]
    done = subprocess.run([sys.executable, SCRIPT], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert done.stderr == "error: the sample is not made of itself. Name real wine: make sample WINE_DATA=folder\n"
    assert [(sources.SAMPLE / name).read_bytes() for name in sources.UCI_PAIR] == before
