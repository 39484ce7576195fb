"""The evaluation of a model on the gate set: importance, partial dependence, errors by slice."""

import numpy as np
import pytest

from wine_quality import sources
from wine_quality.evaluation import evaluate, feature_importance, importance_figure, partial_dependence
from wine_quality.intervals import fit_half_width
from wine_quality.models import build, fit
from wine_quality.schema import FEATURES, TARGET
from wine_quality.splits import distinct_rows


@pytest.fixture(scope="module")
def rows():
    """Rows whose quality depends on the alcohol and a little on the type, and on nothing else."""
    table = distinct_rows(sources.sample("a test").table).dropna().iloc[::9]
    return table.assign(**{TARGET: 0.6 * table["alcohol"] + 0.3 * (table["type"] == "red")})


@pytest.fixture(scope="module")
def linear(rows):
    return fit(build("linear", 1), rows)


def test_the_features_that_the_quality_depends_on_are_the_important_ones(rows, linear):
    importance = feature_importance(linear, rows, 1)
    assert list(importance.index[:2]) == ["alcohol", "type"]
    assert sorted(importance.index) == sorted(FEATURES)
    assert importance["mean"].iloc[0] > 0.5 > importance["mean"].iloc[1] > 0.05
    assert importance["mean"].iloc[2:].abs().max() < 1e-6
    assert importance["std"].iloc[0] > 0
    assert importance.equals(feature_importance(linear, rows, 1)), "the same seed gives the same numbers"
    assert not importance.equals(feature_importance(linear, rows, 2))


def test_a_partial_dependence_has_the_slope_of_the_model(rows, linear):
    before = rows.copy()
    figure = partial_dependence(linear, rows, ["alcohol", "pH", "type"], 1)
    alcohol, acid = (axes.lines[0].get_xydata() for axes in figure.axes[1:3])
    for curve, slope in ((alcohol, 0.6), (acid, 0.0)):
        (x, y), (last_x, last_y) = curve[0], curve[-1]
        assert (last_y - y) / (last_x - x) == pytest.approx(slope, abs=1e-6)
    assert rows.equals(before)


def test_blanks_do_not_empty_a_partial_dependence(rows, linear):
    blank = rows.assign(alcohol=rows["alcohol"].where(np.arange(len(rows)) % 3 > 0))
    curve = partial_dependence(linear, blank, ["alcohol"], 1).axes[1].lines[0].get_xydata()
    (x, y), (last_x, last_y) = curve[0], curve[-1]
    assert (last_y - y) / (last_x - x) == pytest.approx(0.6, abs=1e-6)
    assert last_x < rows["alcohol"].max()


def test_an_evaluation_has_scores_slices_and_figures(rows):
    whole = rows.assign(**{TARGET: rows[TARGET].round().astype(int)})
    linear = fit(build("linear", 1), whole)
    interval = fit_half_width(whole, np.full(len(whole), whole[TARGET].mean()), 1)
    found = evaluate(linear, interval, whole, 1, "alcohol")
    assert found.scores["rmse"] == found.slices.loc["all rows", "rmse"] < 0.4
    assert found.slices.loc["all rows", "rows"] == len(whole)
    assert found.slices.loc["all rows", "coverage"] == 1
    assert len([name for name in found.slices.index if name.startswith("alcohol ")]) == 3
    drawn = importance_figure(found.importance, "a title").axes[0]
    assert [label.get_text() for label in drawn.get_yticklabels()] == list(found.importance.index[::-1])
