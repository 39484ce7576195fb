"""The figures that more than one chapter shows, and how all of them are drawn and kept."""

from io import BytesIO
from pathlib import Path

import numpy as np
import seaborn as sns
from matplotlib.figure import Figure

from wine_quality.files import whole_file

TYPE_COLOURS = {"red": "#d55e00", "white": "#56b4e9"}  # Okabe and Ito (2008): also apart for the colour-blind


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, whole or not at all; the same figure gives the same bytes."""
    with whole_file(path) as part:
        part.write_bytes(as_png(figure))


def as_png(figure: Figure) -> bytes:
    """Return a figure as a picture; the same figure gives the same bytes."""
    picture = BytesIO()
    figure.savefig(picture, format="png", dpi=120, bbox_inches="tight", metadata={"Software": None})
    return picture.getvalue()


def predicted_against_actual(actual: np.ndarray, predicted: np.ndarray, title: str) -> Figure:
    """Return a box per actual quality of the scores predicted for it, with the line of perfect scores."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    sns.boxplot(x=actual, y=predicted, native_scale=True, color="#9ecae1", fliersize=2, ax=axes)
    low, high = actual.min(), actual.max()
    axes.plot([low, high], [low, high], color="#d55e00", linestyle="--", label="a perfect score")
    axes.set(xlabel="quality that tasters gave", ylabel="score predicted", title=title)
    axes.legend(loc="upper left")
    return figure
