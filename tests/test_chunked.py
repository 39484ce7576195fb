import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from faults import largest_file
from pandas.testing import assert_frame_equal, assert_index_equal

from wine_quality import chunked, splits
from wine_quality.config import settings
from wine_quality.engines import Engine, InProcess, Processes
from wine_quality.errors import DataError
from wine_quality.parts import list_parts
from wine_quality.schema import MEASUREMENTS
from wine_quality.sources import load_pair


def keys_by_column(rows: pd.DataFrame) -> pd.Index:
    """The keys as they were first computed, column by column: every gate set so far depends on them."""
    digits = rows[list(MEASUREMENTS)].map(lambda value: f"{value + 0.0:.8g}")
    text = rows["type"].str.cat(digits, sep="|")
    return pd.Index(text.map(lambda row: hashlib.blake2b(row.encode(), digest_size=8).hexdigest()), name=splits.ROW)


def odd_rows(count: int, seed: int) -> pd.DataFrame:
    """Random rows with blanks, zeros of either sign, and numbers of any size with too many digits."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(count, len(MEASUREMENTS))) * 10.0 ** rng.integers(-12, 12, (count, len(MEASUREMENTS)))
    for special in (np.nan, 0.0, -0.0, 5.0, 1e300, -1e-300, np.inf, 0.1 + 0.2):
        values[rng.random(values.shape) < 0.05] = special
    table = pd.DataFrame(values, columns=list(MEASUREMENTS))
    table.insert(0, "type", rng.choice(["red", "white"], count))
    return table


def test_formatting_row_by_row_gives_the_keys_of_formatting_column_by_column(wines):
    for rows in (wines, odd_rows(2000, seed=1), odd_rows(0, seed=2)):
        assert_index_equal(splits.row_keys(rows), keys_by_column(rows))


def random_rows(count: int, seed: int) -> pd.DataFrame:
    """Random tidy rows with few distinct values, so that many are equal, some with blanks that complete rows match."""
    rng = np.random.default_rng(seed)
    digits = rng.choice([1, 2, 3])
    values = {m: rng.uniform(b.low, b.low + (b.high - b.low) / 10**digits, count) for m, b in MEASUREMENTS.items()}
    table = pd.DataFrame({"type": rng.choice(["red", "white"], count), **values, "quality": rng.integers(3, 9, count)})
    table = table.iloc[rng.integers(count // 2, size=count)].reset_index(drop=True)  # each one twice, on average
    for name in MEASUREMENTS:
        table.loc[rng.random(count) < rng.choice([0, 0.01, 0.1]), name] = np.nan
    table["citric_acid"] = table["citric_acid"].where(rng.random(count) < 0.9, rng.choice([0.0, -0.0]))
    table["quality"] = rng.integers(3, 9, count)  # equal rows differ in their labels
    return table


def write_parts(folder: Path, table: pd.DataFrame, size: int) -> list[str]:
    folder.mkdir()
    for number, start in enumerate(range(0, len(table), size)):
        table.iloc[start : start + size].to_parquet(folder / f"part-{number:03}.parquet", index=False)
    return list_parts(str(folder))


def assert_as_in_memory(table: pd.DataFrame, folder: Path, size: int, limit: int, engine: Engine) -> None:
    """Compare all results for a table in parts with those of the in-memory functions."""
    (keys := folder / "keys").mkdir(parents=True)
    rows = chunked.split_parts(write_parts(folder / "parts", table, size), keys, engine, limit, sample=5)
    train, gate_set = splits.train_gate_split(splits.distinct_rows(table))
    assert_frame_equal(rows.table(chunked.TRAIN), train)
    assert_frame_equal(rows.table(chunked.GATE), gate_set)
    assert splits.balance(rows.strata) == pytest.approx(splits.split_balance(train, gate_set), rel=1e-9)
    scored = pd.concat([table.sample(min(50, len(table)), random_state=1), random_rows(20, seed=99)])
    assert (chunked.leaked(rows, scored, limit) == splits.leaked(train, scored)).all()
    sampled = rows.table(chunked.GATE | chunked.SAMPLED, chunked.ROLE | chunked.SAMPLED)
    assert set(sampled.index) <= set(gate_set.sort_index().index[:6])  # the lowest keys, one of which had a twin


@pytest.mark.parametrize("seed", range(12))
def test_parts_of_any_size_give_the_same_result_row_by_row_as_in_memory(tmp_path, seed):
    rng = np.random.default_rng(seed)
    table = random_rows(int(rng.integers(60, 900)), seed)
    size, limit = int(rng.integers(1, 400)), int(rng.choice([1, 7, 50, 10**6]))
    assert_as_in_memory(table, tmp_path / "data", max(size, len(table) // 30), limit, InProcess())


def test_the_real_rows_give_the_same_result_in_parts_as_in_memory(tmp_path, real_folder):
    train, validation, _ = load_pair(settings(data=str(real_folder)))
    assert validation.isna().any(axis=None)
    assert_as_in_memory(pd.concat([validation, train], ignore_index=True), tmp_path / "data", 7000, 1000, InProcess())


def test_gate_rows_that_the_training_would_read_are_found(tmp_path):
    (keys := tmp_path / "keys").mkdir()
    rows = chunked.split_parts(write_parts(tmp_path / "parts", random_rows(600, 7), 100), keys, InProcess())
    gate_set = rows.table(chunked.GATE)
    assert not chunked.leaked(rows, gate_set, 50).any()
    rows.roles[np.flatnonzero(rows.roles & chunked.ROLE == chunked.GATE)[[1, 4]]] = chunked.TRAIN
    found = chunked.leaked(rows, gate_set, 50)
    assert found.tolist() == splits.leaked(rows.table(chunked.TRAIN), gate_set).tolist()
    assert np.flatnonzero(found).tolist() == [1, 4]


@pytest.mark.slow
def test_two_processes_give_the_same_result_as_one(tmp_path):
    engine = Processes(2)
    try:
        assert_as_in_memory(random_rows(2000, 5), tmp_path / "data", 150, 300, engine)
    finally:
        engine.close()


def test_a_dataset_that_cannot_be_split_is_refused(tmp_path, wines):
    tmp_path.joinpath("keys").mkdir()
    with pytest.raises(DataError, match="1 distinct rows are too few to split"):
        chunked.split_parts(write_parts(tmp_path / "one", wines.head(1), 1), tmp_path / "keys", InProcess())


def test_a_full_disk_while_writing_keys_gives_a_one_line_error(tmp_path):
    parts = write_parts(tmp_path / "parts", random_rows(500, 3), 100)
    tmp_path.joinpath("keys").mkdir()
    with largest_file(16), pytest.raises(DataError, match=r"keys: cannot be used \(File too large\). Free some space"):
        chunked.split_parts(parts, tmp_path / "keys", InProcess())


def test_a_row_with_blanks_stays_if_only_a_dropped_copy_matches_it_as_in_memory(tmp_path):
    whole = random_rows(100, seed=4).dropna().head(1)
    copy = whole.assign(alcohol=whole["alcohol"] * (1 + 1e-12))  # the same key, another number
    table = pd.concat([random_rows(100, seed=4).dropna(), copy, copy.assign(pH=np.nan)], ignore_index=True)
    assert splits.distinct_rows(table)["pH"].isna().any()
    assert_as_in_memory(table, tmp_path / "data", 30, 10, InProcess())
