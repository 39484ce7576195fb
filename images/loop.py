"""The loop of the front page, drawn."""

from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

STEPS = {  # where each stands, what it is called, its chapter and what it leaves
    "data": (0.0, 1.0, "data", "checked, no duplicates", "#eef3f7"),
    "train": (1.0, 1.0, "train", "chapters 1 and 3", "#dbe9f6"),
    "track": (2.0, 1.0, "track, register", "chapter 2", "#dbe9f6"),
    "gate": (3.0, 1.0, "gate", "significantly better", "#fff1d6"),
    "serve": (3.0, 0.0, "serve", "chapter 4", "#dbe9f6"),
    "monitor": (1.0, 0.0, "monitor", "chapter 5: drift, errors", "#dbe9f6"),
    "labels": (0.0, 0.0, "labels", "weeks later", "#eef3f7"),
}
ARROWS = [
    ("data", "train", ""),
    ("train", "track", ""),
    ("track", "gate", "challenger"),
    ("gate", "serve", "champion"),
    ("serve", "monitor", "predictions"),
    ("labels", "monitor", ""),
    ("monitor", "train", "an event"),
]
LINE = "#56606b"
WIDTH, HEIGHT, APART = 0.78, 0.42, 1.15


def centre(name: str) -> tuple[float, float]:
    """Return the middle of a box."""
    column, row, *_ = STEPS[name]
    return column * APART, row


def edge(start: str, end: str) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return from where to where an arrow goes: from the middle of a side of one box to that of the other."""
    (x, y), (u, v) = centre(start), centre(end)
    if y == v:
        side = WIDTH / 2 * (1 if u > x else -1)
        return (x + side, y), (u - side, v)
    side = HEIGHT / 2 * (1 if v > y else -1)
    return (x, y + side), (u, v - side)


def loop() -> Figure:
    """Return the figure of the loop."""
    figure = Figure(figsize=(9.5, 3.6), layout="constrained")
    axes = figure.subplots()
    for step, (*_, title, more, colour) in STEPS.items():
        x, y = centre(step)
        corner, shape = (x - WIDTH / 2, y - HEIGHT / 2), "round,pad=0,rounding_size=0.06"
        axes.add_patch(FancyBboxPatch(corner, WIDTH, HEIGHT, boxstyle=shape, fc=colour, ec=LINE))
        axes.text(x, y + 0.06, title, ha="center", va="center", fontsize=12, weight="bold")
        axes.text(x, y - 0.1, more, ha="center", va="center", fontsize=8.5, color="#444444")
    for start, end, label in ARROWS:
        here, there = edge(start, end)
        style = {"arrowstyle": "-|>", "mutation_scale": 14, "color": LINE, "shrinkA": 0, "shrinkB": 0}
        axes.add_patch(FancyArrowPatch(here, there, **style))
        middle = ((here[0] + there[0]) / 2, (here[1] + there[1]) / 2)
        shift, side = ((0, 5), "center") if here[1] == there[1] else ((6, -3), "left")
        axes.annotate(label, middle, shift, textcoords="offset points", ha=side, fontsize=8.5, color="#b34700")
    axes.set(xlim=(-0.45, 3 * APART + 0.45), ylim=(-0.3, 1.3), aspect="equal")
    axes.axis("off")
    return figure
