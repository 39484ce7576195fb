"""How often is the drift alert a false alarm, and which shifts does it detect? `python -m benchmarks.drift`.

It needs the real data (`WINE_DATA`). A calm week is drawn from the same rows as its reference, so every alert in it is
a false alarm. Two rules are compared: one for the whole table that only uses p-values, and the rule of the package,
which tests each colour separately, requires a minimum effect, and tests the mix of colours. The reference is a training
set, or three weeks of predictions.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from scipy.spatial.distance import jensenshannon
from scipy.stats import binomtest, ks_2samp

from benchmarks.machine import write_results
from wine_quality import drift, sources, splits
from wine_quality.config import settings
from wine_quality.schema import MEASUREMENTS, TYPE, TYPES
from wine_quality.thresholds import MAX_DRIFT, MAX_P_VALUE, MIN_DISTANCE, MIN_GAP, MIN_ROWS, REFERENCE_WEEKS

WEEKS, SIZES, TRAINING = 400, (66, 300, 2000), 1000  # weeks a case, rows a week, rows of a training set
WHITE = {"red only": 0.0, "mostly white": 60 / 66, "as in the data": 0.74}  # the share of white wine
SHIFTED = (0.03, 0.06, 0.09, 0.12, 0.2, 0.3)  # the share of white in a week whose reference has none

Rule = Callable[[pd.DataFrame, pd.DataFrame], bool]


def whole_table(reference: pd.DataFrame, week: pd.DataFrame) -> bool:
    """Return whether a third of the 12 columns differ, colours pooled, by p-value or distance alone."""
    red, white = ([(table[TYPE] == colour).mean() for table in (reference, week)] for colour in TYPES)
    before, now = zip(red, white, strict=True)
    count = int(jensenshannon(before, now) >= MIN_DISTANCE)
    for name in MEASUREMENTS:
        test: Any = ks_2samp(reference[name], week[name])
        count += test.pvalue <= MAX_P_VALUE
    return count / 12 >= MAX_DRIFT


def by_colour(reference: pd.DataFrame, week: pd.DataFrame) -> bool:
    """Return whether monitoring would alert, without Evidently's report, which would take hours."""
    before, now = ([(table[TYPE] == colour).mean() for colour in TYPES] for table in (reference, week))
    distance = float(jensenshannon(before, now))
    shares: list[float] = [distance >= MIN_DISTANCE and drift.type_p_value(reference[TYPE], week[TYPE]) <= MAX_P_VALUE]
    for colour in TYPES:
        tables = [table.loc[table[TYPE] == colour] for table in (reference, week)]
        if min(map(len, tables)) >= MIN_ROWS:
            shares.append(float(np.mean([drifted(*(table[name] for table in tables)) for name in MEASUREMENTS])))
    return max(shares) >= MAX_DRIFT


def drifted(reference: pd.Series, week: pd.Series) -> bool:
    """Return whether a measurement has drifted."""
    test: Any = ks_2samp(reference, week)
    return test.pvalue <= MAX_P_VALUE and test.statistic >= MIN_GAP


def assert_same_rule(wine: pd.DataFrame) -> None:
    """Assert that `by_colour` agrees with the monitoring job in some calm and some shifted weeks."""
    for seed, white in enumerate([0.0, 0.03, 0.05, 0.1, 0.5, 60 / 66] * 3):
        rng = np.random.default_rng(seed)
        reference, week = draw(wine, TRAINING, [0.0, 0.5, 60 / 66][seed % 3], rng), draw(wine, SIZES[0], white, rng)
        result = drift.drift(reference, week)
        assert by_colour(reference, week) == (result.type_drift or result.share >= MAX_DRIFT)


RULES: dict[str, Rule] = {"whole_table": whole_table, "by_colour": by_colour}


def draw(wine: pd.DataFrame, rows: int, white: float, rng: np.random.Generator) -> pd.DataFrame:
    """Draw rows with replacement, each of them white with probability `white`."""
    whites = int(rng.binomial(rows, white))
    counts = dict(zip(TYPES, (rows - whites, whites), strict=True))
    places = [rng.choice(np.flatnonzero(wine[TYPE] == colour), count) for colour, count in counts.items()]
    return wine.iloc[np.concatenate(places)].reset_index(drop=True)


def alarms(wine: pd.DataFrame, rows: int, before: float, now: float, reference_rows: int) -> dict[str, Any]:
    """Return the share of weeks in which each rule alerts, with its 95 % interval."""

    def one(seed: int) -> list[bool]:
        rng = np.random.default_rng(seed)
        reference, week = draw(wine, reference_rows, before, rng), draw(wine, rows, now, rng)
        return [rule(reference, week) for rule in RULES.values()]

    found = np.array(Parallel(n_jobs=-1)(delayed(one)(seed) for seed in range(WEEKS)))
    ends = [binomtest(int(count), WEEKS).proportion_ci() for count in found.sum(axis=0)]
    shares = zip(RULES, found.mean(axis=0), ends, strict=True)
    return {name: {"share": share, "low": end.low, "high": end.high} for name, share, end in shares}


def main() -> None:
    wine = splits.distinct_rows(sources.load_dataset(settings()).table).dropna()
    assert_same_rule(wine)
    calm = {
        f"{mix}, {rows} rows a week, {what}": alarms(wine, rows, white, white, reference)
        for mix, white in WHITE.items()
        for rows in SIZES
        for what, reference in (("training set", TRAINING), ("three weeks", REFERENCE_WEEKS * rows))
    }
    shift = {f"{white:.0%} white": alarms(wine, SIZES[0], 0.0, white, TRAINING) for white in SHIFTED}
    outdated = {"trained on a third white": alarms(wine, SIZES[0], 1 / 3, WHITE["mostly white"], TRAINING)}
    worst = max(one["by_colour"]["share"] for one in calm.values())
    mean = float(np.mean([one["by_colour"]["share"] for one in calm.values()]))
    results = {"weeks": WEEKS, "calm": calm, "shift": shift, "outdated_reference": outdated}
    write_results("drift", {**results, "calm_mean_by_colour": mean, "calm_worst_by_colour": worst})


if __name__ == "__main__":
    main()
