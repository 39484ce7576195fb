"""The report of a simulation: one self-contained HTML page with a figure and a table, which needs no network."""

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from monitoring.records import Record, load_records
from monitoring.simulation.scenario import Scenario, Week
from wine_quality import predictions, thresholds, tracking
from wine_quality.config import Settings
from wine_quality.files import atomic_write
from wine_quality.plots import TYPE_COLOURS, as_png
from wine_quality.schema import TARGET, to_matrix
from wine_quality.scoring import load_scorer
from wine_quality.templates import render

SMOOTHED = 4  # weeks that the error's lines average over, because a single week is mostly noise
WITH_LOOP, WITHOUT = "#0072b2", "#999999"


@dataclass(frozen=True)
class Outcome:
    """The outcome of a simulation. `weeks` has one row for each week; its index is the week's number.

    Its columns are `rows`, `white` (share of rows), `with_loop` and `without` (mean squared error), `drift` (share of
    measurements), `rejected` (share of requests), `version` (which scored the rows) and `champion` (at the week's end).
    """

    weeks: pd.DataFrame
    records: list[Record]
    incidents: list[str]

    @property
    def promoted(self) -> list[int]:
        """The weeks that ended with a new champion."""
        return list(self.weeks.index[self.weeks["version"] != self.weeks["champion"]])

    @property
    def retrained(self) -> list[int]:
        """The weeks in which a retraining was requested."""
        return [number for number, record in zip(self.weeks.index, self.records, strict=True) if record.trigger]

    @property
    def rejected(self) -> list[int]:
        """The weeks in which the gate rejected the retrained model."""
        return [number for number in self.retrained if number not in self.promoted]

    @property
    def promoted_from_shadow(self) -> list[int]:
        """The weeks in which a challenger was promoted after a comparison in shadow deployment."""
        pairs = zip(self.weeks.index, self.records, strict=True)
        return [number for number, record in pairs if record.passed_comparison]

    @property
    def rejected_in_shadow(self) -> list[int]:
        """The weeks in which a challenger was compared in shadow deployment and not promoted."""
        pairs = zip(self.weeks.index, self.records, strict=True)
        return [number for number, record in pairs if record.shadow and not record.passed_comparison]

    def rmse(self, column: str, weeks: Sequence[int]) -> float:
        """Return the RMSE over all rows of some weeks."""
        part = self.weeks.loc[weeks]
        return float(np.sqrt(np.average(part[column], weights=part["rows"])))

    def summary(self, scenario: Scenario) -> dict[str, Any]:
        """Return the key figures of the outcome."""
        numbers, promoted = list(self.weeks.index), self.promoted
        after = [number for number in numbers if promoted and number > promoted[0]]
        alerts = {number: kinds(self.records[number - 1]) for number in numbers}
        return {
            "weeks": len(numbers),
            "rows": int(self.weeks["rows"].to_numpy().sum()),
            "retrained": self.retrained,
            "promoted": promoted,
            "rejected": self.rejected,
            "promoted_from_shadow": self.promoted_from_shadow,
            "rejected_in_shadow": self.rejected_in_shadow,
            "alerts": {number: found for number, found in alerts.items() if found},
            "first_promotion": promoted[0] if promoted else None,
            "rmse_with_loop": self.rmse("with_loop", after) if after else None,
            "rmse_without": self.rmse("without", after) if after else None,
            "rmse_before": self.rmse("with_loop", list(range(1, scenario.shift))),
            "champion": str(self.weeks["champion"].iloc[-1]),
        }


def kinds(record: Record) -> list[str]:
    """Return the kinds of a record's alerts."""
    return [alert.kind for alert in record.alerts]


def load_outcome(config: Settings, weeks: list[Week], progress: list[dict[str, Any]]) -> Outcome:
    """Return the outcome of the weeks, from stored predictions and records."""
    stored = predictions.load(config.predictions_uri).set_index("id")
    with tracking.store(config) as store:
        first = load_scorer(config, store.client.get_model_version(store.model_name, "1"))
    rows, records = {}, {record.result.name: record for record in load_records(config)}
    for week, line in zip(weeks, progress, strict=True):
        labels, result = week.table[TARGET].to_numpy(), records[week.name].result
        with_loop, without = stored.loc[line["ids"], "score"], first.score(to_matrix(week.table))
        rows[week.number] = {
            "rows": len(week.table),
            "white": (week.table["type"] == "white").mean(),
            "with_loop": ((with_loop.to_numpy() - labels) ** 2).mean(),
            "without": ((without - labels) ** 2).mean(),
            "drift": np.nan if result.drift_share is None else result.drift_share,
            "rejected": result.rejected_share,
            "version": result.version,
            "champion": line["champion"],
        }
    table = pd.DataFrame(rows).T.infer_objects()
    return Outcome(table, [records[week.name] for week in weeks], [week.incident for week in weeks])


def write_report(config: Settings, scenario: Scenario, weeks: list[Week], progress: list[dict[str, Any]]) -> None:
    """Write the page, the summary and, for a full year, the README's figure, each atomically."""
    outcome, root = load_outcome(config, weeks, progress), config.home.parent.parent
    picture, summary = as_png(draw(outcome)), outcome.summary(scenario)
    encoded = base64.b64encode(picture).decode()
    text = render("simulation.html.j2", table=table_rows(outcome), picture=encoded, **summary)
    with atomic_write(root / "monitoring" / "report.html") as part:
        part.write_text(text, encoding="utf-8")
    with atomic_write(config.home / "summary.json") as part:
        part.write_text(json.dumps(summary, indent=2))
    if len(weeks) > 12:
        with atomic_write(root / "images" / "simulation.png") as part:
            part.write_bytes(picture)


def table_rows(outcome: Outcome) -> list[dict[str, Any]]:
    """Return the rows of the page's table, one for each week."""
    rows, weeks = [], outcome.weeks.iterrows()
    for (number, week), record, incident in zip(weeks, outcome.records, outcome.incidents, strict=True):
        lines = [str(alert) for alert in record.alerts]
        if record.trigger:
            lines.append(f"{record.outcome}: {'promoted' if number in outcome.promoted else 'rejected by the gate'}")
        if record.shadow:
            lines.append(record.shadow_outcome)
        rows.append({"number": number, **week, "result": record.result, "incident": incident, "lines": lines})
    return rows


def draw(outcome: Outcome) -> Figure:
    """Return a figure of the error with and without the loop, of drift, and of the champions."""
    figure = Figure(figsize=(10, 8), layout="constrained")
    panels = error, drift, champions = figure.subplots(3, sharex=True, height_ratios=[3, 2, 1])
    draw_error(error, outcome)
    draw_drift(drift, outcome)
    draw_champions(champions, outcome)
    for number in outcome.promoted:
        for axes in panels:
            axes.axvline(number + 0.5, color="black", linewidth=0.8, linestyle=":")
    champions.set(xlabel="week", xlim=(0.4, len(outcome.weeks) + 0.6))
    return figure


def draw_error(axes: Any, outcome: Outcome) -> None:
    """Draw the error of each week, and its mean over the last four weeks."""
    weeks = outcome.weeks
    for column, colour, label in (
        ("without", WITHOUT, "without the loop: the first champion throughout"),
        ("with_loop", WITH_LOOP, "with the loop"),
    ):
        squares = (weeks[column] * weeks["rows"]).rolling(SMOOTHED, 1).sum()
        smooth = squares / weeks["rows"].rolling(SMOOTHED, 1).sum()
        axes.plot(weeks.index, weeks[column] ** 0.5, "o", markersize=3, color=colour, alpha=0.5)
        axes.plot(smooth.index, smooth**0.5, color=colour, linewidth=2, label=label)
    axes.set(ylabel="RMSE (points of quality)", title="Error by week; lines are four-week means")
    axes.legend(loc="lower right")


def draw_drift(axes: Any, outcome: Outcome) -> None:
    """Draw the shares of white rows, drifted measurements and rejected requests, and mark the drift alerts."""
    weeks = outcome.weeks
    axes.fill_between(weeks.index, 100 * weeks["white"], step="mid", color=TYPE_COLOURS["white"], alpha=0.3)
    axes.bar(weeks.index, 100 * weeks["drift"], width=0.6, color="#56606b", label="drifted measurements")
    alerted = [number for number, one in zip(weeks.index, outcome.records, strict=True) if "drift" in kinds(one)]
    axes.plot(alerted, [105] * len(alerted), "v", color="#56606b", markersize=5, label="drift alert")
    rejected = 100 * weeks.loc[weeks["rejected"] > thresholds.MAX_REJECTED, "rejected"]
    axes.plot(rejected.index, rejected, "X", color="#d55e00", label="rejected requests")
    limit = {"color": "black", "linewidth": 0.8, "linestyle": "--"}
    axes.axhline(100 * thresholds.MAX_DRIFT, **limit, label="threshold")
    axes.fill_between([], [], color=TYPE_COLOURS["white"], alpha=0.3, label="white wine")
    axes.set(ylabel="%", ylim=(0, 138), yticks=range(0, 101, 20))
    axes.set_title("Incoming data, and its drift from the reference")
    axes.legend(loc="upper left", ncols=5, fontsize=8.5)


def draw_champions(axes: Any, outcome: Outcome) -> None:
    """Draw which version scored each week, and when a challenger was rejected by the gate or promoted from shadow."""
    for version, weeks in outcome.weeks.groupby("version", sort=False):
        first, last = weeks.index[0], weeks.index[-1]
        axes.barh(0, last - first + 1, left=first - 0.5, height=0.6, color=WITH_LOOP, alpha=0.35, edgecolor="white")
        axes.text((first + last) / 2, 0, f"version {version}", ha="center", va="center")
    axes.plot(outcome.rejected, [0.48] * len(outcome.rejected), "v", color="#d55e00")
    from_shadow = outcome.promoted_from_shadow
    axes.plot(from_shadow, [0.48] * len(from_shadow), "*", color="#009e73", markersize=12)
    title = "Champion by week. Triangle: challenger rejected by the gate. Star: challenger promoted from shadow"
    axes.set(yticks=[], ylim=(-0.4, 0.65), title=title)
