"""The scenario of a simulation: which rows arrive in which week, and what goes wrong when.

A winery has only sold red wine, so its model was only trained on red wine. Then white wine begins to arrive, more of
it each week until little red wine is left: a covariate shift. There are also three incidents. In one week, a laboratory
reports density in the wrong unit. In another, all rows are high in sulfur dioxide: they differ from the reference, but
are easy to predict. Later, a taster inverts the scale for some weeks, so the labels are wrong until they are corrected.
"""

from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from wine_quality.errors import DataError
from wine_quality.schema import BEST, TARGET
from wine_quality.splits import distinct_rows

WRONG_UNIT = ("density", 1000)  # g/mL written as kg/m³
TRAINING_SHARE = 0.42  # of the red rows; the first champion is trained on these


@dataclass(frozen=True)
class Scenario:
    """The numbers that define a scenario. Weeks count from 1."""

    arrivals: tuple[tuple[int, int], ...]  # red rows and white rows that arrive in each week
    label_delay: int  # weeks from a prediction to its label
    bad_data: int  # the week with density in the wrong unit
    high_sulfur: int  # the week of rows high in sulfur dioxide
    wrong_labels: tuple[int, ...]  # the weeks whose labels are wrong at first

    @property
    def shift(self) -> int:
        """The week in which the first white rows arrive."""
        return next(week for week, (_, white) in enumerate(self.arrivals, 1) if white)

    @property
    def correction(self) -> int:
        """The week in which the wrong labels are corrected, one week after the last of them arrived."""
        return self.wrong_labels[-1] + self.label_delay + 1


def arrivals_in_week(week: int) -> tuple[int, int]:
    """Return how many red and white rows arrive: 40 and 0 until week 10, then gradually fewer red, to 6 and 60."""
    late = max(0, week - 10)
    return max(6, 40 - 4 * late), min(60, 5 * late)


YEAR = Scenario(
    tuple(map(arrivals_in_week, range(1, 53))), label_delay=4, bad_data=5, high_sulfur=8, wrong_labels=(37, 38, 39)
)
SHORT = Scenario(
    ((100, 0), (100, 0), (60, 300), (20, 320), (10, 50), (10, 50)),
    label_delay=1,
    bad_data=1,
    high_sulfur=2,
    wrong_labels=(5,),
)
SCENARIOS = {"year": YEAR, "short": SHORT}


@dataclass(frozen=True)
class Week:
    """One week of a simulation."""

    number: int  # from 1
    table: pd.DataFrame  # the rows that arrive, with their correct quality
    invalid: pd.DataFrame = field(default_factory=pd.DataFrame)  # the rows with a measurement in the wrong unit
    incident: str = ""  # what goes wrong or changes in this week

    @property
    def name(self) -> str:
        """The name of the week's monitoring run."""
        return f"week {self.number:02d}"


def draw_weeks(scenario: Scenario, table: pd.DataFrame, seed: int) -> tuple[pd.DataFrame, list[Week]]:
    """Return the first champion's training data, and the weeks. No row occurs twice.

    The same seed and table give the same simulation. Raise `DataError` if there are too few rows.
    """
    shuffled = distinct_rows(table).dropna().sample(frac=1, random_state=seed)
    red, white = (shuffled[shuffled["type"] == colour] for colour in ("red", "white"))
    cut = round(TRAINING_SHARE * len(red))
    training, red = red.iloc[:cut], red.iloc[cut:]
    reds, whites = (sum(column) for column in zip(*scenario.arrivals, strict=True))
    if reds > len(red) or whites > len(white):
        raise DataError(
            f"the simulation needs {reds} red and {whites} white rows, and the data has {len(red)} and {len(white)}. "
            "Set WINE_DATA to the real data or to the sample."
        )
    high_sulfur = red.nlargest(scenario.arrivals[scenario.high_sulfur - 1][0], "total_sulfur_dioxide")
    red, weeks = red.drop(high_sulfur.index), []
    for number, (reds, whites) in enumerate(scenario.arrivals, 1):
        arriving = high_sulfur if number == scenario.high_sulfur else red.iloc[:reds]
        weeks.append(Week(number, pd.concat([arriving, white.iloc[:whites]])))
        red, white = red.drop(arriving.index, errors="ignore"), white.iloc[whites:]
    return training.reset_index(drop=True), [with_incident(scenario, week) for week in weeks]


def with_incident(scenario: Scenario, week: Week) -> Week:
    """Return a week with its incident; in the week of bad data, half of the rows get the wrong unit."""
    if week.number == scenario.bad_data:
        column, factor = WRONG_UNIT
        half = len(week.table) // 2
        invalid = week.table.iloc[:half].drop(columns=TARGET)
        invalid[column] *= factor
        incident = f"bad data: half of the rows arrive with {column} in the wrong unit"
        return Week(week.number, week.table.iloc[half:], invalid, incident)
    incidents = {
        scenario.high_sulfur: "drift without harm: only red wines high in sulfur dioxide arrive",
        scenario.shift: "the shift begins: the first white wines arrive",
        scenario.wrong_labels[0] + scenario.label_delay: "wrong labels: a taster has inverted the scale",
        scenario.correction: "the wrong labels are corrected",
    }
    return replace(week, incident=incidents.get(week.number, ""))


def labels_due(scenario: Scenario, week: int) -> dict[int, bool]:
    """Return the weeks whose labels arrive in a week, and whether those labels are correct."""
    labelled = week - scenario.label_delay
    due = {labelled: labelled not in scenario.wrong_labels} if labelled > 0 else {}
    return due | (dict.fromkeys(scenario.wrong_labels, True) if week == scenario.correction else {})


def taster_labels(table: pd.DataFrame, correct: bool) -> list[int]:
    """Return the labels of a table: the quality, or if not correct, the quality on an inverted scale."""
    quality = table[TARGET].to_numpy()
    return np.where(correct, quality, BEST - quality).tolist()
