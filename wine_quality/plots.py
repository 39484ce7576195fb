"""The figures that more than one chapter shows."""

import numpy as np
import seaborn as sns
from matplotlib.figure import Figure


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
