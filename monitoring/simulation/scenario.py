"""The plan of a replayed year: which real wines come in which week, and what goes wrong when.

A cellar has bought red wine only, and its model knows no other. In spring it begins to buy white: a little more each
week, until little red is left. That is the shift. Three things are special besides. In one week a laboratory writes
density in the wrong unit. In one only heavily sulphured wines come, unlike those before but easy to score. And for some
weeks a taster counts from the best down, so that the true qualities that come in are the wrong way round, until someone
sees it.
"""

from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from wine_quality.errors import DataError
from wine_quality.schema import BEST, TARGET
from wine_quality.splits import distinct_wines

WRONG_UNIT = ("density", 1000)  # g/mL written as kg/m³


@dataclass(frozen=True)
class Plan:
    """A year in numbers.

    Attributes
    ----------
    arrivals : tuple of pairs of int
        How many red and how many white wines come in each week.
    lag : int
        Weeks from a wine's score to its true quality.
    known : float
        The share of the red wines that the first champion is trained on.
    bad_data, sulphured : int
        The weeks of the wrong unit and of the heavily sulphured wines.
    turned : tuple of int
        The weeks whose qualities come in the wrong way round. They are mended in the week after the last of them is in.
    """

    arrivals: tuple[tuple[int, int], ...]
    lag: int
    known: float
    bad_data: int
    sulphured: int
    turned: tuple[int, ...]

    @property
    def weeks(self) -> int:
        """How many weeks there are."""
        return len(self.arrivals)

    @property
    def shift(self) -> int:
        """The week in which the first white wine comes."""
        return next(week for week, (_, whites) in enumerate(self.arrivals, 1) if whites)


def creeping(week: int) -> tuple[int, int]:
    """Return the arrivals of a week: 40 red at first; from week 11 on ever more white and less red, to 60 and 6."""
    late = max(0, week - 10)
    return max(6, 40 - 4 * late), min(60, 5 * late)


YEAR = Plan(tuple(map(creeping, range(1, 53))), lag=4, known=0.42, bad_data=5, sulphured=8, turned=(37, 38, 39))
SIX_WEEKS = Plan(
    ((100, 0), (100, 0), (60, 300), (20, 320), (10, 50), (10, 50)),
    lag=1,
    known=0.42,
    bad_data=1,
    sulphured=2,
    turned=(5,),
)


@dataclass(frozen=True)
class Week:
    """What happens in a week.

    Attributes
    ----------
    number : int
        From 1 on.
    wines : DataFrame of shape (n wines, 13)
        The wines that come, with their true quality, which nobody knows yet.
    garbled : DataFrame of shape (n wines, 12)
        Those that come with a measurement in the wrong unit.
    story : str
        What is special, in words; else an empty text.
    """

    number: int
    wines: pd.DataFrame
    garbled: pd.DataFrame = field(default_factory=pd.DataFrame)
    story: str = ""

    @property
    def name(self) -> str:
        """What the week is called."""
        return f"week {self.number:02d}"


def plan_year(plan: Plan, wines: pd.DataFrame, seed: int) -> tuple[pd.DataFrame, list[Week]]:
    """Return the wines that the first champion knows, and the weeks. No wine comes twice.

    Parameters
    ----------
    plan : Plan
    wines : DataFrame of shape (n wines, 13)
        Any number of them, repeats included.
    seed : int
        Same seed and wines, same year.

    Raises
    ------
    DataError
        There are too few wines for such a year.
    """
    shuffled = distinct_wines(wines).dropna().sample(frac=1, random_state=seed)
    red, white = (shuffled[shuffled["type"] == colour] for colour in ("red", "white"))
    known, red = red.iloc[: round(plan.known * len(red))], red.iloc[round(plan.known * len(red)) :]
    reds, whites = (sum(column) for column in zip(*plan.arrivals, strict=True))
    if reds > len(red) or whites > len(white):
        raise DataError(
            f"{len(red)} red and {len(white)} white wines are too few for the year: {reds} and {whites} are wanted. "
            "Set WINE_DATA to the real wine or to the sample."
        )
    sulphured = red.nlargest(plan.arrivals[plan.sulphured - 1][0], "total_sulfur_dioxide")
    red, weeks = red.drop(sulphured.index), []
    for number, (reds, whites) in enumerate(plan.arrivals, 1):
        come = sulphured if number == plan.sulphured else red.iloc[:reds]
        weeks.append(Week(number, pd.concat([come, white.iloc[:whites]])))
        red, white = red.drop(come.index, errors="ignore"), white.iloc[whites:]
    return known.reset_index(drop=True), [special(plan, week) for week in weeks]


def special(plan: Plan, week: Week) -> Week:
    """Return a week with what goes wrong in it."""
    if week.number == plan.bad_data:
        column, factor = WRONG_UNIT
        half = len(week.wines) // 2
        garbled = week.wines.iloc[:half].drop(columns=TARGET)
        return replace(
            week,
            wines=week.wines.iloc[half:],
            garbled=garbled.assign(**{column: garbled[column] * factor}),
            story="bad data: half of the wines come with their density in the wrong unit",
        )
    if week.number == plan.sulphured:
        return replace(week, story="drift without harm: the most sulphured of the red wines come, all at once")
    if week.number == plan.shift:
        return replace(week, story="the shift begins: the first white wines come")
    if week.number == plan.turned[0] + plan.lag:
        return replace(week, story="true qualities come in the wrong way round from now on")
    if week.number == mended_in(plan):
        return replace(week, story="the qualities that were the wrong way round are mended")
    return week


def mended_in(plan: Plan) -> int:
    """Return the week in which the qualities are told right."""
    return plan.turned[-1] + plan.lag + 1


def told_in(plan: Plan, week: int) -> dict[int, bool]:
    """Return the weeks whose qualities are told in a week, and whether the right way round."""
    told = {week - plan.lag: week - plan.lag not in plan.turned} if week > plan.lag else {}
    return told | (dict.fromkeys(plan.turned, True) if week == mended_in(plan) else {})


def qualities(wines: pd.DataFrame, right: bool) -> list[int]:
    """Return what tasters say of wines: their quality, or what the one says who counts from the best down."""
    quality = wines[TARGET].to_numpy()
    return np.where(right, quality, BEST - quality).tolist()
