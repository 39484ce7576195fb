"""Row identity and splits: distinct rows, the leak check, the gate set, the folds.

A row is identified by its type and its eleven measurements. Its key is a hash of them, so it is the same on every
machine. The key alone decides whether a row is in the training set or the gate set, so a row stays in its set as the
dataset grows. `distinct_rows` computes the keys once and returns them as the index of its table.
"""

import hashlib
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import chi2_contingency
from sklearn.model_selection import StratifiedKFold

from wine_quality.errors import DataError, LeakError
from wine_quality.schema import FEATURES, MEASUREMENTS, TARGET, TYPE, TYPES

ROW = "row"  # the name of an index of row keys
ROW_TEXT = "|".join(["%s", *["%.8g"] * len(MEASUREMENTS)])  # what is hashed
GATE_SHARE = 0.2
FOLDS = 5
UNLIKELY = 1e-6
STRATA = 10  # of the balance check: two types, and five groups of quality in each

Fold = tuple[np.ndarray, np.ndarray]  # the positions of the rows to fit on, and of those to score


def row_keys(rows: pd.DataFrame) -> pd.Index:
    """Return the key of each row, 16 hexadecimal digits: from the table's index if it has them, else computed."""
    if rows.index.name == ROW:
        return rows.index
    digits = row_hashes(rows).astype(">u8").tobytes().hex()
    return pd.Index([digits[start : start + 16] for start in range(0, len(digits), 16)], dtype="str", name=ROW)


def row_hashes(rows: pd.DataFrame) -> np.ndarray:
    """Return the key of each row as a number, uint64 of shape (n rows,)."""
    numbers = (rows[name].to_numpy(dtype="float64", na_value=np.nan) + 0.0 for name in MEASUREMENTS)  # -0.0 is 0.0
    cells = zip(rows[TYPE].tolist(), *(column.tolist() for column in numbers), strict=True)
    hashes = (hashlib.blake2b((ROW_TEXT % row).encode(), digest_size=8).digest() for row in cells)
    return np.frombuffer(b"".join(hashes), dtype=">u8").astype("uint64")


def key_numbers(keys: pd.Index) -> np.ndarray:
    """Return row keys as numbers, uint64 of shape (n rows,)."""
    return np.frombuffer(bytes.fromhex("".join(keys)), dtype=">u8").astype("uint64")


def in_gate_set(keys: np.ndarray) -> np.ndarray:
    """Return for each key, given as a number, whether its row belongs to the gate set."""
    return keys.astype("float64") / 2**64 < GATE_SHARE


def distinct_rows(rows: pd.DataFrame) -> pd.DataFrame:
    """Return each row once, in order of first appearance, with the row keys as the index.

    A row with blanks is dropped if a complete row equals it in all its other features.
    """
    keyed = rows.set_index(row_keys(rows))
    once = keyed.loc[~keyed.index.duplicated()]
    complete = once.dropna(subset=FEATURES)
    blank = once.drop(index=complete.index)
    groups = blank.groupby([blank[name].isna() for name in FEATURES])
    return once.drop(index=[key for _, alike in groups for key in contained(alike, complete)])


def contained(alike: pd.DataFrame, complete: pd.DataFrame) -> pd.Index:
    """Return the keys of the rows, all with the same blank columns, that equal a complete row in the other columns."""
    measured = alike.reindex(columns=FEATURES).dropna(axis="columns")
    of_complete = complete.reindex(columns=measured.columns)
    return alike.index[pd.MultiIndex.from_frame(measured).isin(pd.MultiIndex.from_frame(of_complete))]


def leaked(train: pd.DataFrame, scored: pd.DataFrame) -> np.ndarray:
    """Return for each scored row whether the training set contains an exact copy of it."""
    return row_keys(scored).isin(row_keys(train))


def leaked_fraction(train: pd.DataFrame, scored: pd.DataFrame) -> float:
    """Return the share, 0 to 1, of the scored rows that the training set contains exact copies of."""
    return float(leaked(train, scored).mean())


def assert_no_leak(train: pd.DataFrame, scored: pd.DataFrame, where: str = "the split") -> None:
    """Raise `LeakError` if a scored row is also in the training set."""
    both = leaked(train, scored)
    if both.any():
        raise LeakError(
            f"{where}: {both.sum():,} of {len(scored):,} rows to score ({both.mean():.2%}) are also in the training "
            "set, so the score would reward memorising. Remove them from one of the two sets, or give one table and "
            "let the pipeline split it."
        )


def train_gate_split(rows: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Split distinct rows by their keys into a training set and a gate set of about 20 %, both indexed by key.

    Raises `DataError` if a set is empty, or if the two differ in type and quality more than chance explains.
    """
    keyed = rows.set_index(row_keys(rows))
    gate = in_gate_set(key_numbers(keyed.index))
    train, gate_set = keyed.loc[~gate], keyed.loc[gate]
    assert_balanced(stratum_counts(train, gate_set))
    return train, gate_set


def assert_balanced(counts: np.ndarray) -> None:
    """Raise `DataError` if a set is empty, or if the two differ in type and quality more than chance explains.

    `counts` are those of `stratum_counts`.
    """
    if not counts.any(axis=1).all():
        raise DataError(f"{counts.sum()} distinct rows are too few to split. Give more rows.")
    if (chance := balance(counts)) < UNLIKELY:
        raise DataError(
            f"the gate set is unlike the training set in type and quality (p = {chance:.1e}). Look for rows that "
            "differ only in their last digit."
        )


def split_balance(train: pd.DataFrame, gate_set: pd.DataFrame) -> float:
    """Return the p-value of a chi-squared test: how likely a random split differs as much in type and quality."""
    return balance(stratum_counts(train, gate_set))


def balance(counts: np.ndarray) -> float:
    """Return the p-value of `split_balance` from the counts of `stratum_counts`."""
    result: Any = chi2_contingency(counts[:, counts.any(axis=0)])
    return float(result.pvalue)


def stratum_counts(train: pd.DataFrame, gate_set: pd.DataFrame) -> np.ndarray:
    """Return the number of rows in each stratum of the training set and of the gate set, of shape (2, `STRATA`)."""
    return np.array([np.bincount(row_strata(rows), minlength=STRATA) for rows in (train, gate_set)])


def row_strata(rows: pd.DataFrame) -> np.ndarray:
    """Return the number of each row's stratum in the balance check, 0 to 9, uint8 of shape (n rows,)."""
    return ((rows[TYPE] == TYPES[0]) * 5 + rows[TARGET].clip(4, 8) - 4).to_numpy("uint8")


def folds(rows: pd.DataFrame, seed: int) -> list[Fold]:
    """Return 5 folds, shuffled and stratified by quality; raise `DataError` if there are fewer than five rows."""
    if len(rows) < FOLDS:
        raise DataError(f"{len(rows)} rows are too few for {FOLDS} folds. Give more rows.")
    # scikit-learn only warns about a quality with fewer than five rows, so merge it with its neighbour
    strata = merge_rare_labels(rows[TARGET])  # pyright: ignore[reportArgumentType]
    return list(StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(rows, strata))


def merge_rare_labels(quality: pd.Series) -> pd.Series:
    """Replace each quality that has fewer than five rows by the nearest one that has enough."""
    counts = quality.value_counts()
    common = np.array(counts.index[counts >= FOLDS])
    if not len(common):
        return pd.Series(0, index=quality.index)
    return quality.map(lambda q: common[np.abs(common - q).argmin()])
