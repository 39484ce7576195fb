"""Figures whose code is too long for a notebook cell or that several chapters show, and helpers to save figures."""

from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from wine_quality.files import atomic_write
from wine_quality.schema import TYPES

TYPE_COLOURS = dict(zip(TYPES, ("#d55e00", "#56b4e9"), strict=True))  # Okabe and Ito (2008), for colour-blind readers


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, atomically; the same figure gives the same bytes."""
    with atomic_write(path) as part:
        part.write_bytes(as_png(figure))


def as_png(figure: Figure) -> bytes:
    """Return a figure as PNG; the same figure gives the same bytes."""
    picture = BytesIO()
    figure.savefig(picture, format="png", dpi=120, bbox_inches="tight", metadata={"Software": None})
    return picture.getvalue()


def predicted_against_actual(actual: np.ndarray, predicted: np.ndarray, title: str) -> Figure:
    """Return a box plot of the predictions for each actual quality, with the line of perfect predictions."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    sns.boxplot(x=actual, y=predicted, native_scale=True, color="#9ecae1", fliersize=2, ax=axes)
    low, high = actual.min(), actual.max()
    axes.plot([low, high], [low, high], color="#d55e00", linestyle="--", label="perfect prediction")
    axes.set(xlabel="actual quality", ylabel="predicted quality", title=title)
    axes.legend(loc="upper left")
    return figure


def parallel_coordinates(trials: pd.DataFrame, logarithmic: list[str], title: str) -> Figure:
    """Return a parallel-coordinates plot: a line per trial, an axis per column, coloured by the last, low values dark.

    `trials` has shape (n trials, k), with columns of numbers, or of strings with at most two values. `logarithmic`
    names the columns with a logarithmic axis.
    """
    trials = trials.sort_values(str(trials.columns[-1]), ascending=False)  # good trials are drawn over bad ones
    heights, last = heights_on_axes(trials, logarithmic), trials.iloc[:, -1]
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    colour = ScalarMappable(Normalize(last.min(), last.max()), colormaps["cividis"])
    for value, height in zip(last, heights, strict=True):
        axes.plot(height, color=colour.to_rgba(value))
    for place, name in enumerate(trials):
        axes.axvline(place, color="grey", linewidth=0.8)
        for height, end in ((-0.09, trials[name].min()), (1.04, trials[name].max())):
            axes.text(place, height, end if isinstance(end, str) else f"{end:.4g}", ha="center")
    labels = [f"{name}\n(log scale)" if name in logarithmic else name for name in trials]
    axes.set(xticks=range(len(labels)), xticklabels=labels, yticks=[], ylim=(-0.13, 1.13), title=title)
    axes.grid(visible=False)
    figure.colorbar(colour, ax=axes, label=str(last.name))
    return figure


def heights_on_axes(trials: pd.DataFrame, logarithmic: list[str]) -> np.ndarray:
    """Return each value scaled from 0, the minimum of its column, to 1, the maximum, of shape (n trials, k)."""
    numbers = trials.copy()
    for name in trials.select_dtypes(exclude="number"):
        numbers[name] = pd.factorize(trials[name], sort=True)[0]
    numbers[logarithmic] = np.log(trials[logarithmic])
    return ((numbers - numbers.min()) / (numbers.max() - numbers.min()).replace(0, 1)).to_numpy(dtype="float64")
