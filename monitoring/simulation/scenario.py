"""The scenario of a simulation: which rows arrive in which week, and what goes wrong when.

A winery has sold red wine only, so its model has seen no other. Then white wine comes in, a little more each week,
until little red is left: a covariate shift. There are three incidents besides. In one week a laboratory reports density
in the wrong unit. In one week only heavily sulphured wines arrive, which differ from the reference but are easy to
score. And for some weeks a taster counts from the best down, so that the labels are wrong until they are corrected.
"""

from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from wine_quality.errors import DataError
from wine_quality.schema import BEST, TARGET
from wine_quality.splits import distinct_rows

WRONG_UNIT = ("density", 1000)  # g/mL written as kg/m³
TRAINING_SHARE = 0.42  # of the red wines, that the first champion is trained on


@dataclass(frozen=True)
class Scenario:
    """A scenario in numbers."""

    arrivals: tuple[tuple[int, int], ...]  # how many red and how many white wines arrive in each week
    label_delay: int  # weeks from a prediction to its label
    bad_data: int  # the week of the wrong unit
    sulphured: int  # that of the heavily sulphured wines
    wrong_labels: tuple[int, ...]  # the weeks whose labels come in wrong at first

    @property
    def shift(self) -> int:
        """The week in which the first white wine arrives."""
        return next(week for week, (_, white) in enumerate(self.arrivals, 1) if white)

    @property
    def correction(self) -> int:
        """The week in which the wrong labels are corrected, after the last of them came in."""
        return self.wrong_labels[-1] + self.label_delay + 1


def year_of_arrivals(week: int) -> tuple[int, int]:
    """Return the arrivals of a week: 40 red at first; from week 11 on ever more white and less red, to 60 and 6."""
    late = max(0, week - 10)
    return max(6, 40 - 4 * late), min(60, 5 * late)


YEAR = Scenario(
    tuple(map(year_of_arrivals, range(1, 53))), label_delay=4, bad_data=5, sulphured=8, wrong_labels=(37, 38, 39)
)
SHORT = Scenario(
    ((100, 0), (100, 0), (60, 300), (20, 320), (10, 50), (10, 50)),
    label_delay=1,
    bad_data=1,
    sulphured=2,
    wrong_labels=(5,),
)
SCENARIOS = {"year": YEAR, "short": SHORT}


@dataclass(frozen=True)
class Week:
    """One week of a simulation."""

    number: int  # from 1 on
    table: pd.DataFrame  # the wines that arrive, with the quality that their labels will have
    invalid: pd.DataFrame = field(default_factory=pd.DataFrame)  # those with a measurement in the wrong unit
    incident: str = ""  # what is special about the week

    @property
    def name(self) -> str:
        """The name of the week's monitoring run."""
        return f"week {self.number:02d}"


def draw_weeks(scenario: Scenario, table: pd.DataFrame, seed: int) -> tuple[pd.DataFrame, list[Week]]:
    """Return the rows that the first champion is trained on, and the weeks. No row occurs twice.

    The same seed and table give the same simulation. Raise a `DataError` if there are too few wines.
    """
    shuffled = distinct_rows(table).dropna().sample(frac=1, random_state=seed)
    red, white = (shuffled[shuffled["type"] == colour] for colour in ("red", "white"))
    cut = round(TRAINING_SHARE * len(red))
    training, red = red.iloc[:cut], red.iloc[cut:]
    reds, whites = (sum(column) for column in zip(*scenario.arrivals, strict=True))
    if reds > len(red) or whites > len(white):
        raise DataError(
            f"{len(red)} red and {len(white)} white wines are too few for the simulation: {reds} and {whites} needed. "
            "Set WINE_DATA to the real data or to the sample."
        )
    sulphured = red.nlargest(scenario.arrivals[scenario.sulphured - 1][0], "total_sulfur_dioxide")
    red, weeks = red.drop(sulphured.index), []
    for number, (reds, whites) in enumerate(scenario.arrivals, 1):
        arriving = sulphured if number == scenario.sulphured else red.iloc[:reds]
        weeks.append(Week(number, pd.concat([arriving, white.iloc[:whites]])))
        red, white = red.drop(arriving.index, errors="ignore"), white.iloc[whites:]
    return training.reset_index(drop=True), [with_incident(scenario, week) for week in weeks]


def with_incident(scenario: Scenario, week: Week) -> Week:
    """Return a week with what goes wrong in it: in that of bad data, half of the rows have the wrong unit."""
    if week.number == scenario.bad_data:
        column, factor = WRONG_UNIT
        half = len(week.table) // 2
        invalid = week.table.iloc[:half].drop(columns=TARGET)
        invalid[column] *= factor
        incident = f"bad data: half of the wines arrive with their {column} in the wrong unit"
        return Week(week.number, week.table.iloc[half:], invalid, incident)
    incidents = {
        scenario.sulphured: "drift without harm: only the most sulphured of the red wines arrive",
        scenario.shift: "the shift begins: the first white wines arrive",
        scenario.wrong_labels[0] + scenario.label_delay: "wrong labels: they are the wrong way round from now on",
        scenario.correction: "the wrong labels are corrected",
    }
    return replace(week, incident=incidents.get(week.number, ""))


def labels_due(scenario: Scenario, week: int) -> dict[int, bool]:
    """Return the weeks whose labels come in during a week, and whether they are correct."""
    labelled = week - scenario.label_delay
    due = {labelled: labelled not in scenario.wrong_labels} if labelled > 0 else {}
    return due | (dict.fromkeys(scenario.wrong_labels, True) if week == scenario.correction else {})


def taster_labels(table: pd.DataFrame, correct: bool) -> list[int]:
    """Return the labels of wines: their quality, or what a taster says who counts from the best down."""
    quality = table[TARGET].to_numpy()
    return np.where(correct, quality, BEST - quality).tolist()
