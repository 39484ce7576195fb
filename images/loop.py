"""The loop of the front page, and what happened in it in four weeks of the simulation."""

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

STEPS = {  # the column and row of each box, its title, its chapter or a remark, its colour
    "data": (0.0, 1.0, "data", "checked, no duplicates", "#eef3f7"),
    "train": (1.0, 1.0, "train", "chapters 1 and 3", "#dbe9f6"),
    "track": (2.0, 1.0, "track, register", "chapter 2", "#dbe9f6"),
    "gate": (3.0, 1.0, "gate", "significantly better?", "#fff1d6"),
    "serve": (3.0, 0.0, "serve", "chapter 4", "#dbe9f6"),
    "monitor": (1.0, 0.0, "monitor", "chapter 5: drift, errors", "#dbe9f6"),
    "labels": (0.0, 0.0, "labels", "weeks later", "#eef3f7"),
}
ARROWS = {
    ("data", "train"): "",
    ("train", "track"): "",
    ("track", "gate"): "challenger",
    ("gate", "serve"): "champion",
    ("serve", "monitor"): "predictions",
    ("labels", "monitor"): "",
    ("monitor", "train"): "retrain",
}
Arrows = dict[tuple[str, str], str]
LINE, WORDS, FAINT = "#56606b", "#b34700", "#c3c9cf"
WIDTH, HEIGHT, APART = 0.78, 0.42, 1.15


def centre(name: str) -> tuple[float, float]:
    """Return the middle of a box."""
    column, row, *_ = STEPS[name]
    return column * APART, row


def edge(start: str, end: str) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return from where to where an arrow goes: between the facing edges of two boxes."""
    (x, y), (u, v) = centre(start), centre(end)
    if y == v:
        half = WIDTH / 2 * (1 if u > x else -1)
        lower = 0.12 if (end, start) in ARROWS else 0  # beside the arrow that goes the other way
        return (x + half, y - lower), (u - half, v - lower)
    half = HEIGHT / 2 * (1 if v > y else -1)
    return (x, y + half), (u, v - half)


def draw_box(axes: Axes, name: str, lit: bool, remarks: bool) -> None:
    """Draw a step of the loop, grey unless it's lit."""
    *_, title, more, colour = STEPS[name]
    x, y = centre(name)
    corner, shape = (x - WIDTH / 2, y - HEIGHT / 2), "round,pad=0,rounding_size=0.06"
    fill, frame = (colour, LINE) if lit else ("white", FAINT)
    axes.add_patch(FancyBboxPatch(corner, WIDTH, HEIGHT, boxstyle=shape, fc=fill, ec=frame))
    style: dict[str, Any] = {"ha": "center", "va": "center"}
    shade = "black" if lit else FAINT
    if remarks:
        axes.text(x, y + 0.06, title, fontsize=12, weight="bold", color=shade, **style)
        axes.text(x, y - 0.1, more, fontsize=8.5, color="#444444", **style)
    else:
        axes.text(x, y, title.replace(" ", "\n"), fontsize=9.5, weight="bold", color=shade, **style)


def draw_arrow(axes: Axes, start: str, end: str, label: str, lit: bool) -> None:
    """Draw an arrow between two steps, grey and without its label unless it's lit."""
    here, there = edge(start, end)
    style: dict[str, Any] = {"arrowstyle": "-|>", "mutation_scale": 14, "shrinkA": 0, "shrinkB": 0}
    axes.add_patch(FancyArrowPatch(here, there, color=LINE if lit else FAINT, **style))
    middle = ((here[0] + there[0]) / 2, (here[1] + there[1]) / 2)
    shift, place = ((0, 5), "center") if here[1] == there[1] else ((6, -3), "left")
    if (end, start) in ARROWS:
        shift = (0, -13)
    style = {"textcoords": "offset points", "ha": place, "fontsize": 8.5, "color": WORDS}
    axes.annotate(label if lit else "", middle, shift, **style)


def draw_loop(axes: Axes, arrows: Arrows, remarks: bool = True) -> None:
    """Draw the loop with the given arrows lit, and the steps that they join; `remarks` stand below their titles."""
    lit = {name for pair in arrows for name in pair}
    for name in STEPS:
        draw_box(axes, name, name in lit, remarks)
    for pair, label in (ARROWS | arrows).items():
        draw_arrow(axes, *pair, label, pair in arrows)
    axes.set(xlim=(-0.45, 3 * APART + 0.45), ylim=(-0.3, 1.3), aspect="equal")
    axes.axis("off")


def loop() -> Figure:
    """Return the figure of the loop."""
    figure = Figure(figsize=(9.5, 3.6), layout="constrained")
    draw_loop(figure.subplots(), ARROWS)
    return figure


def loop_in_steps(simulated: dict[str, Any]) -> Figure:
    """Return the loop in four weeks of a simulated year, from `benchmarks/results/simulation.json`."""
    shadow, (rejected, *_) = simulated["promoted_from_shadow"][0], simulated["rejected"]
    promoted = next(week for week in simulated["promoted"] if week != shadow)
    trained: Arrows = {("train", "track"): "", ("track", "gate"): ""}
    observed: Arrows = {("serve", "monitor"): "predictions", ("labels", "monitor"): ""}
    champion: Arrows = {("gate", "serve"): "champion"}
    weeks = {
        "At the start: the first version becomes the champion": {("data", "train"): ""} | trained | champion,
        f"Week {rejected}: the data drifts; the gate rejects the new version": observed
        | {("monitor", "train"): "retrain: drift"}
        | trained,
        f"Week {shadow}: a version is better in shadow deployment and promoted": observed
        | {("serve", "monitor"): "predictions of both", ("monitor", "serve"): "champion"},
        f"Week {promoted}: the error is high; the new version passes the gate": observed
        | {("monitor", "train"): "retrain: error"}
        | trained
        | champion,
    }
    figure = Figure(figsize=(11, 5.2), layout="constrained")
    for axes, (title, arrows) in zip(figure.subplots(2, 2).flat, weeks.items(), strict=True):
        draw_loop(axes, arrows, remarks=False)
        axes.set_title(title, fontsize=11.5)
    return figure
