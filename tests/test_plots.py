import numpy as np
import pandas as pd
import pytest

from wine_quality.plots import parallel_coordinates

TRIALS = pd.DataFrame(
    {"features": ["measured", "engineered", "engineered"], "alpha": [0.01, 0.1, 1.0], "trees": [60, 60, 60],
     "RMSE": [0.70, 0.68, 0.69]}
)  # fmt: skip


@pytest.fixture
def figure():
    return parallel_coordinates(TRIALS, ["alpha"], "trials")


def heights(figure) -> dict[float, list[float]]:
    lines = [line.get_ydata() for line in figure.axes[0].lines if len(line.get_ydata()) == TRIALS.shape[1]]
    return dict(zip(sorted(TRIALS["RMSE"], reverse=True), map(list, lines), strict=True))


def test_a_logarithmic_column_has_a_logarithmic_axis(figure):
    assert [line[1] for line in heights(figure).values()] == pytest.approx([0, 1, 0.5])
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()][1] == "alpha\n(log scale)"


def test_columns_of_strings_and_constant_columns_are_drawn(figure):
    assert [(line[0], line[2]) for line in heights(figure).values()] == [(1, 0), (0, 0), (0, 0)]
    ends = [text.get_text() for text in figure.axes[0].texts]
    assert ends == ["engineered", "measured", "0.01", "1", "60", "60", "0.68", "0.7"]


def test_there_is_a_colour_bar_and_the_best_trial_is_the_darkest_and_on_top(figure):
    assert figure.axes[1].get_ylabel() == "RMSE"
    lines = [line for line in figure.axes[0].lines if len(line.get_ydata()) == TRIALS.shape[1]]
    colours = [np.sum(line.get_color()[:3]) for line in lines]
    assert colours == sorted(colours, reverse=True)


def test_a_single_trial_is_drawn():
    figure = parallel_coordinates(TRIALS.head(1), ["alpha"], "one")
    assert list(figure.axes[0].lines[0].get_ydata()) == [0, 0, 0, 0]
