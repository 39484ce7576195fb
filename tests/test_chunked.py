import hashlib

import numpy as np
import pandas as pd
from pandas.testing import assert_index_equal

from wine_quality import splits
from wine_quality.schema import MEASUREMENTS


def keys_by_column(rows: pd.DataFrame) -> pd.Index:
    """The keys as they were first computed, a column at a time: every gate set so far follows from these."""
    digits = rows[list(MEASUREMENTS)].map(lambda value: f"{value + 0.0:.8g}")
    text = rows["type"].str.cat(digits, sep="|")
    return pd.Index(text.map(lambda row: hashlib.blake2b(row.encode(), digest_size=8).hexdigest()), name=splits.ROW)


def odd_rows(count: int, seed: int) -> pd.DataFrame:
    """Random rows with blanks, both zeros, numbers of any size and of too many digits."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(count, len(MEASUREMENTS))) * 10.0 ** rng.integers(-12, 12, (count, len(MEASUREMENTS)))
    for special in (np.nan, 0.0, -0.0, 5.0, 1e300, -1e-300, np.inf, 0.1 + 0.2):
        values[rng.random(values.shape) < 0.05] = special
    table = pd.DataFrame(values, columns=list(MEASUREMENTS))
    table.insert(0, "type", rng.choice(["red", "white"], count))
    return table


def test_a_row_formatted_at_once_has_the_key_of_one_formatted_by_columns(wines):
    for rows in (wines, odd_rows(2000, seed=1), odd_rows(0, seed=2)):
        assert_index_equal(splits.row_keys(rows), keys_by_column(rows))
