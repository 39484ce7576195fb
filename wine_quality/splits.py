"""Honest ground: which wines are the same, and who may learn from which.

A wine is its type and its eleven measurements. Its key is a hash of them, so the same wine has the same key on every
machine, and the side of the split follows from the key alone: a wine stays on its side for ever as data grows.
"""

import hashlib

import numpy as np
import pandas as pd
from scipy.stats import chi2_contingency
from sklearn.model_selection import StratifiedKFold

from wine_quality.errors import DataError, LeakError
from wine_quality.schema import FEATURES, MEASUREMENTS, TARGET

GATE_SHARE = 0.2
FOLDS = 5
UNLIKELY = 1e-6


def row_keys(wines: pd.DataFrame) -> pd.Series:
    """Return the key of each wine: 16 hexadecimal digits, hashed from its type and measurements."""
    digits = wines[list(MEASUREMENTS)].map(lambda value: f"{value + 0.0:.8g}")  # + 0.0 makes -0.0 the same as 0.0
    text = wines["type"].str.cat(digits, sep="|")
    return text.map(lambda wine: hashlib.blake2b(wine.encode(), digest_size=8).hexdigest()).rename("key")


def distinct_rows(wines: pd.DataFrame) -> pd.DataFrame:
    """Return each wine once, in order of first appearance, with a fresh index.

    A wine with blanks is dropped where a complete wine agrees with it on everything else: it is that wine.
    """
    once = wines.loc[~row_keys(wines).duplicated()].reset_index(drop=True)
    blank = once[list(MEASUREMENTS)].isna().any(axis=1)
    known = once.loc[~blank]
    repeats = [row for row, wine in once.loc[blank].iterrows() if contains_row(wine, known)]
    return once.drop(index=repeats).reset_index(drop=True)


def contains_row(wine: pd.Series, wines: pd.DataFrame) -> bool:
    """Say whether a wine agrees with one of `wines` on everything it does not leave blank."""
    given = wine[FEATURES].dropna()
    return bool((wines[given.index] == given).all(axis=1).any())


def leaked(train: pd.DataFrame, scored: pd.DataFrame) -> pd.Series:
    """Say of each scored wine whether the training side holds an exact copy of it."""
    return row_keys(scored).isin(row_keys(train))


def leaked_fraction(train: pd.DataFrame, scored: pd.DataFrame) -> float:
    """Return the share of scored wines, 0 to 1, of which the training side holds an exact copy."""
    return float(leaked(train, scored).mean())


def assert_no_leak(train: pd.DataFrame, scored: pd.DataFrame, where: str = "the split") -> None:
    """Raise `LeakError` where a scored wine also stands on the training side."""
    both = leaked(train, scored)
    if both.any():
        raise LeakError(
            f"{where}: {both.sum():,} of {len(scored):,} scored wines ({both.mean():.2%}) are also trained on, so the "
            "score would be a memory test. Take them out of one side, or give one table and let the pipeline split it."
        )


def train_gate_split(wines: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Split distinct wines into a training side and a gate set of about 20 %, each wine by its own key.

    Raises
    ------
    DataError
        A side is empty, or the two differ in type and quality more than chance explains.
    """
    held = row_keys(wines).map(lambda key: int(key, 16) / 2**64 < GATE_SHARE)
    train, gate_set = wines.loc[~held].reset_index(drop=True), wines.loc[held].reset_index(drop=True)
    if train.empty or gate_set.empty:
        raise DataError(f"{len(wines)} distinct wines are too few to split. Give more wines.")
    if (chance := split_balance(train, gate_set)) < UNLIKELY:
        raise DataError(
            f"the gate set is unlike the training side in type and quality (p = {chance:.1e}). Look for wines that "
            "differ only in their last digit."
        )
    return train, gate_set


def split_balance(train: pd.DataFrame, gate_set: pd.DataFrame) -> float:
    """Return the chance (p-value of a chi-squared test) that two random sides differ as much in type and quality."""
    side = np.repeat(["train", "gate set"], [len(train), len(gate_set)])
    both = pd.concat([train, gate_set], ignore_index=True)
    stratum = both["type"] + both[TARGET].clip(4, 8).astype(str)
    return float(chi2_contingency(pd.crosstab(side, stratum)).pvalue)


def folds(wines: pd.DataFrame, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return 5 (fit, score) pairs of row positions, shuffled, each with the same mix of qualities.

    Raises
    ------
    DataError
        There are fewer than five wines.
    """
    if len(wines) < FOLDS:
        raise DataError(f"{len(wines)} wines are too few for {FOLDS} folds. Give more wines.")
    # a rare quality may be thinner than five wines: scikit-learn then only warns, so it joins its neighbour
    strata = merge_rare_labels(wines[TARGET])
    return list(StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(wines, strata))


def merge_rare_labels(quality: pd.Series) -> pd.Series:
    """Return the qualities with those of fewer than five wines moved to the nearest that has enough."""
    counts = quality.value_counts()
    common = counts.index[counts >= FOLDS].to_numpy()
    if not len(common):
        return pd.Series(0, index=quality.index)
    return quality.map(lambda q: common[np.abs(common - q).argmin()])
