"""The year on one page: what came, what was said of it, and what the loop was worth. A figure, a table, no network."""

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, FileSystemLoader
from matplotlib.figure import Figure
from mlflow import MlflowClient

from monitoring.alerts import what_follows
from monitoring.records import Record, records
from monitoring.simulation.scenario import Plan, Week
from wine_quality import predictions, tracking
from wine_quality import thresholds as health
from wine_quality.config import Settings
from wine_quality.files import whole_file
from wine_quality.plots import TYPE_COLOURS, as_png
from wine_quality.schema import FEATURES, TARGET
from wine_quality.scoring import columns_of, load_scorer

SMOOTH = 4  # weeks that the lines of the error are averaged over: a single week is mostly luck
TEMPLATE = "page.html.j2"
LOOP, ALONE = "#0072b2", "#999999"


@dataclass(frozen=True)
class Year:
    """A year that was lived through.

    Attributes
    ----------
    weeks : DataFrame
        A row a week, by its number: `wines`, `white` (share), `with_loop` and `without` (mean squared error), `drift`
        (share of the columns), `refused` (share), `version` (that scored), `champion` (at its end).
    records : list of Record
    stories : list of str
        What is special about each week.
    """

    weeks: pd.DataFrame
    records: list[Record]
    stories: list[str]

    @property
    def promoted(self) -> list[int]:
        """The weeks at whose end another version was champion than the one that had scored."""
        return list(self.weeks.index[self.weeks["version"] != self.weeks["champion"]])

    @property
    def asked(self) -> list[int]:
        """The weeks in which a new model was asked for."""
        return [n for n, record in zip(self.weeks.index, self.records, strict=True) if record.event]

    @property
    def refused(self) -> list[int]:
        """Those of them whose model the gate refused."""
        return [n for n in self.asked if n not in self.promoted]

    def rmse(self, column: str, weeks: Sequence[int]) -> float:
        """Return the RMSE over some weeks, each wine counted once."""
        part = self.weeks.loc[weeks]
        return float(np.sqrt(np.average(part[column], weights=part["wines"])))


def lived(config: Settings, weeks: list[Week], lines: list[dict[str, Any]]) -> Year:
    """Read what became of the weeks."""
    made = predictions.load(config.predictions_uri).set_index("id")
    with tracking.store(config):
        first = load_scorer(config, MlflowClient().get_model_version(config.registered_model, "1"))
    rows, found = {}, {record.reading.name: record for record in records(config)}
    for week, line in zip(weeks, lines, strict=True):
        actual, kept, seen = week.wines[TARGET].to_numpy(), made.loc[line["ids"]], found[week.name].reading
        alone = first.score(columns_of(week.wines[FEATURES]))
        rows[week.number] = {
            "wines": len(week.wines),
            "white": (week.wines["type"] == "white").mean(),
            "with_loop": ((kept["score"].to_numpy() - actual) ** 2).mean(),
            "without": ((alone - actual) ** 2).mean(),
            "drift": np.nan if seen.drift is None else seen.drift,
            "refused": seen.refused_share,
            "version": seen.version,
            "champion": line["champion"],
        }
    return Year(pd.DataFrame(rows).T.infer_objects(), [found[week.name] for week in weeks], [w.story for w in weeks])


def write(config: Settings, plan: Plan, weeks: list[Week], lines: list[dict[str, Any]]) -> None:
    """Write the page, the figure of the README and the figures of the year, each whole or not at all."""
    year, root = lived(config, weeks, lines), config.home.parent.parent
    picture, told = as_png(drawn(year)), summary(year, plan)
    shown = base64.b64encode(picture).decode()
    text = environment().get_template(TEMPLATE).render(rows=rows(year), picture=shown, **told)
    with whole_file(root / "monitoring" / "report.html") as part:
        part.write_text(text, encoding="utf-8")
    with whole_file(config.home / "summary.json") as part:
        part.write_text(json.dumps(told, indent=2))
    if plan.weeks > 12:
        with whole_file(root / "images" / "simulation.png") as part:
            part.write_bytes(picture)


def environment() -> Environment:
    """Return where templates are; what goes into one is escaped."""
    return Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True)


def summary(year: Year, plan: Plan) -> dict[str, Any]:
    """Return the year in figures."""
    numbers, promoted = list(year.weeks.index), year.promoted
    after = [n for n in numbers if promoted and n > promoted[0]]
    return {
        "weeks": len(numbers),
        "wines": int(year.weeks["wines"].sum()),
        "asked": year.asked,
        "promoted": promoted,
        "refused": year.refused,
        "alerts": {n: [one.kind for one in found] for n in numbers if (found := year.records[n - 1].findings)},
        "first_promotion": promoted[0] if promoted else None,
        "rmse_with_loop": year.rmse("with_loop", after) if after else None,
        "rmse_without": year.rmse("without", after) if after else None,
        "rmse_before": year.rmse("with_loop", list(range(1, plan.shift))),
        "champion": str(year.weeks["champion"].iloc[-1]),
    }


def rows(year: Year) -> list[dict[str, Any]]:
    """Return a row of the table for each week."""
    told = []
    for (number, week), record, story in zip(year.weeks.iterrows(), year.records, year.stories, strict=True):
        lines = [str(one) for one in record.findings]
        if record.event:
            fate = "promoted" if number in year.promoted else "refused by the gate"
            lines.append(f"{what_follows(record)}: {fate}")
        quality = record.reading.quality
        told.append(
            {
                "number": number,
                "wines": week["wines"],
                "white": f"{week['white']:.0%}",
                "refused": f"{week['refused']:.0%}",
                "drift": "–" if record.reading.drift is None else f"{record.reading.drift:.0%}",
                "with_loop": f"{week['with_loop'] ** 0.5:.3f}",
                "without": f"{week['without'] ** 0.5:.3f}",
                "known": str(quality) if quality else "–",
                "champion": week["champion"],
                "story": story,
                "lines": lines,
            }
        )
    return told


def drawn(year: Year) -> Figure:
    """Return the figure of the year: the error with and without the loop, drift, and who was champion when."""
    figure = Figure(figsize=(10, 8), layout="constrained")
    error, drift, champions = figure.subplots(3, sharex=True, height_ratios=[3, 2, 1])
    draw_error(error, year)
    draw_drift(drift, year)
    draw_champions(champions, year)
    for number in year.promoted:
        for axes in (error, drift, champions):
            axes.axvline(number + 0.5, color="black", linewidth=0.8, linestyle=":")
    champions.set(xlabel="week", xlim=(0.4, len(year.weeks) + 0.6))
    return figure


def draw_error(axes: Any, year: Year) -> None:
    """Draw the true error of each week, and its mean over the last four."""
    names = (("without", ALONE, "without the loop: the first champion all year"), ("with_loop", LOOP, "with the loop"))
    for column, colour, label in names:
        squares = year.weeks[column] * year.weeks["wines"]
        smooth = squares.rolling(SMOOTH, 1).sum() / year.weeks["wines"].rolling(SMOOTH, 1).sum()
        axes.plot(year.weeks.index, year.weeks[column] ** 0.5, "o", markersize=3, color=colour, alpha=0.5)
        axes.plot(smooth.index, smooth**0.5, color=colour, linewidth=2, label=label)
    axes.set(ylabel="RMSE (points of quality)", title="Error of each week; the lines are means over four weeks")
    axes.legend(loc="lower right")


def draw_drift(axes: Any, year: Year) -> None:
    """Draw the share of white wines, of columns that drifted, and of requests that were refused."""
    index = year.weeks.index
    axes.fill_between(index, 100 * year.weeks["white"], step="mid", color=TYPE_COLOURS["white"], alpha=0.3)
    axes.bar(index, 100 * year.weeks["drift"], width=0.6, color="#56606b", label="columns that drifted")
    refused = year.weeks["refused"] > health.MOST_REFUSED
    axes.plot(index[refused], 100 * year.weeks["refused"][refused], "X", color="#d55e00", label="requests refused")
    axes.axhline(100 * health.MOST_DRIFTED, color="black", linewidth=0.8, linestyle="--", label="limit of drift")
    axes.fill_between([], [], color=TYPE_COLOURS["white"], alpha=0.3, label="white wine")
    axes.set(ylabel="%", ylim=(0, 130), yticks=range(0, 101, 20))
    axes.set_title("What came, and how unlike it was to what the champion knows")
    axes.legend(loc="upper left", ncols=4)


def draw_champions(axes: Any, year: Year) -> None:
    """Draw which version scored each week, and when the gate refused another one."""
    for version, weeks in year.weeks.groupby("version", sort=False):
        first, last = weeks.index[0], weeks.index[-1]
        axes.barh(0, last - first + 1, left=first - 0.5, height=0.6, color=LOOP, alpha=0.35, edgecolor="white")
        axes.text((first + last) / 2, 0, f"version {version}", ha="center", va="center")
    axes.plot(year.refused, [0.48] * len(year.refused), "v", color="#d55e00")
    axes.set(yticks=[], ylim=(-0.4, 0.65), title="The champion; a triangle is a challenger that the gate refused")
