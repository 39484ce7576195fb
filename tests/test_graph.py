"""Export to ONNX: which pipelines have a graph, and how its trees compare with a threshold."""

import numpy as np
import onnx
import onnxruntime
import pytest
from versions import few_sides

from wine_quality.graph import GROUP, ROWS, SCORES, float32_at_most, to_onnx
from wine_quality.models import build, fit, predict, weighted_mean
from wine_quality.schema import to_matrix


@pytest.fixture(scope="module")
def train():
    return few_sides()[0]


def test_a_graph_takes_one_matrix_and_returns_a_column_for_each_pipeline(train):
    forest = fit(build("extra_trees", 1, "engineered", n_estimators=3), train)
    graph = onnx.load_from_string(to_onnx(forest, forest)).graph
    (rows,), (scores,) = graph.input, graph.output
    assert (rows.name, scores.name) == (ROWS, SCORES)
    assert [size.dim_value for size in rows.type.tensor_type.shape.dim] == [0, 12]
    assert [size.dim_value for size in scores.type.tensor_type.shape.dim] == [0, 2]


@pytest.mark.parametrize("name", ["linear", "k_neighbors", "random_forest_classifier", "xgboost", "kernel_ridge"])
def test_a_pipeline_with_a_step_that_cannot_be_exported_has_no_graph(name, train):
    assert to_onnx(fit(build(name, 1), train)) is None


def test_a_blend_of_the_search_has_no_graph_although_a_member_has_one(train):
    parts = [("extra_trees", build("extra_trees", 1, n_estimators=3)), ("linear", build("linear", 1))]
    assert to_onnx(fit(weighted_mean(parts), train)) is None


def test_a_forest_with_a_tree_that_never_branches_has_no_graph(train):
    assert to_onnx(fit(build("extra_trees", 1, n_estimators=3), train.assign(quality=6.0))) is None


def test_a_rounded_threshold_decides_the_same_for_every_float32():
    thresholds = np.random.default_rng(1).normal(size=1000)
    near = thresholds.astype("float32")
    for columns in (near, np.nextafter(near, np.float32(np.inf)), np.nextafter(near, np.float32(-np.inf))):
        assert np.array_equal(columns <= float32_at_most(thresholds), columns.astype("float64") <= thresholds)


def test_the_graph_of_a_forest_with_more_trees_than_one_operator_takes_predicts_like_its_pipeline(train):
    forest = fit(build("extra_trees", 1, n_estimators=2 * GROUP + 5), train)
    session = onnxruntime.InferenceSession(to_onnx(forest), providers=["CPUExecutionProvider"])
    (scores,) = session.run(None, {ROWS: to_matrix(train)})
    np.testing.assert_allclose(scores[:, 0], predict(forest, train), atol=1e-6)
