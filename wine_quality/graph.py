"""Export fitted pipelines, preprocessing included, to an ONNX graph: a matrix of rows in, a column per pipeline out.

The operators are written here because skl2onnx has no converter for the derived columns, and takes some 20 seconds for
500 trees. Everything is float64, as in the pipeline, except in trees, where scikit-learn also compares float32.
"""

from functools import reduce
from operator import add
from typing import Any, cast

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper
from sklearn.ensemble import ExtraTreesRegressor, RandomForestRegressor, VotingRegressor
from sklearn.pipeline import Pipeline
from sklearn.tree import DecisionTreeClassifier

from wine_quality.chemistry import chemistry
from wine_quality.kernel_ridge import ExponentialKernelRidge
from wine_quality.models import shares
from wine_quality.schema import FEATURES

FORESTS = ExtraTreesRegressor, RandomForestRegressor
ROWS, SCORES = "rows", "scores"  # the names of the graph's input and output
OPSETS = {"": 18, "ai.onnx.ml": 5, "com.microsoft": 1}
GROUP = 100  # trees per operator: with more, scoring many rows no longer fits the CPU cache
MEAN, AT_MOST = 0, 0  # how the TreeEnsemble operator aggregates trees, and compares a column with a threshold


class Value:
    """A value in a graph. Arithmetic with it adds operators to the graph, so formulas for columns work here too."""

    def __init__(self, graph: "Graph", name: str) -> None:
        self.graph, self.name = graph, name

    def __add__(self, other: Any) -> "Value":
        return self.graph.apply("Add", self, other)

    def __sub__(self, other: Any) -> "Value":
        return self.graph.apply("Sub", self, other)

    def __mul__(self, other: Any) -> "Value":
        return self.graph.apply("Mul", self, other)

    def __truediv__(self, other: Any) -> "Value":
        return self.graph.apply("Div", self, other)

    def __rpow__(self, other: Any) -> "Value":
        return self.graph.apply("Pow", other, self)

    __radd__, __rmul__ = __add__, __mul__

    def clip(self, lower: float) -> "Value":
        """Return the value, but at least `lower`."""
        return self.graph.apply("Max", self, lower)


class Graph:
    """A graph under construction: its operators, and its constants, which are float64 unless given as arrays."""

    def __init__(self) -> None:
        self.nodes, self.constants = [], []
        self.rows = Value(self, ROWS)

    def apply(self, operator: str, *inputs: Any, domain: str = "", **attributes: Any) -> Value:
        """Add an operator, and return its output; inputs that are not values become constants."""
        names = [value.name if isinstance(value, Value) else self.constant(value) for value in inputs]
        output = f"value_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, names, [output], domain=domain, **attributes))
        return Value(self, output)

    def constant(self, value: Any) -> str:
        """Add a constant, and return its name."""
        array = value if isinstance(value, np.ndarray) else np.asarray(value, dtype="float64")
        self.constants.append(numpy_helper.from_array(array, f"constant_{len(self.constants)}"))
        return self.constants[-1].name

    def model(self, columns: list[Value]) -> ModelProto:
        """Return the graph as a model with one output, of shape (n rows, k columns)."""
        joined = self.apply("Concat", *columns, axis=1)
        self.nodes.append(helper.make_node("Identity", [joined.name], [SCORES]))
        given = helper.make_tensor_value_info(ROWS, TensorProto.DOUBLE, [None, len(FEATURES)])
        result = helper.make_tensor_value_info(SCORES, TensorProto.DOUBLE, [None, len(columns)])
        graph = helper.make_graph(self.nodes, "wine_quality", [given], [result], self.constants)
        opsets = [helper.make_opsetid(domain, number) for domain, number in OPSETS.items()]
        return helper.make_model(graph, opset_imports=opsets, ir_version=10)


class NoGraphError(Exception):
    """A step of a pipeline cannot be exported here."""


def to_onnx(*pipelines: Pipeline) -> bytes | None:
    """Return fitted pipelines as one serialised ONNX graph, or None if a step of one of them cannot be exported.

    The input is float64, of shape (n rows, 12): 1 for red or 0 for white, then the measurements, NaN if blank. The
    output is float64, of shape (n rows, k pipelines).
    """
    graph = Graph()
    try:
        columns = [predicted(graph, pipeline) for pipeline in pipelines]
    except NoGraphError:
        return None
    return graph.model(columns).SerializeToString()


def predicted(graph: Graph, pipeline: Pipeline) -> Value:
    """Add the prediction of a pipeline to a graph, and return it."""
    model = cast(Any, pipeline["model"])
    if isinstance(model, VotingRegressor):
        return reduce(add, (predicted(graph, member) * share for share, member in shares(pipeline)))
    matrix = preprocessed(graph, pipeline)
    if isinstance(model, ExponentialKernelRidge):
        distances = graph.apply("CDist", matrix, model.rows_, domain="com.microsoft", metric="euclidean")
        kernel = graph.apply("Exp", distances * (-1 / model.length_scale))
        return graph.apply("MatMul", kernel, model.coefficients_[:, np.newaxis]) + model.mean_
    narrow = graph.apply("Cast", matrix, to=TensorProto.FLOAT)
    if isinstance(model, FORESTS):
        return forest_scores(graph, [one.tree_ for one in model.estimators_], narrow)
    if isinstance(model, DecisionTreeClassifier):
        return tree_scores(graph, [model.tree_], model.classes_[model.tree_.value.argmax(axis=-1)].ravel(), narrow)
    raise NoGraphError


def forest_scores(graph: Graph, trees: list[Any], matrix: Value) -> Value:
    """Return the mean prediction of the trees of a forest, of shape (n rows, 1)."""
    groups = [trees[start : start + GROUP] for start in range(0, len(trees), GROUP)]
    means = [tree_scores(graph, one, np.concatenate([tree.value.ravel() for tree in one]), matrix) for one in groups]
    return reduce(add, (mean * (len(one) / len(trees)) for one, mean in zip(groups, means, strict=True)))


def tree_scores(graph: Graph, trees: list[Any], values: np.ndarray, matrix: Value) -> Value:
    """Return the mean over trees of the value at the leaf of a row, of shape (n rows, 1).

    `values` has one value for each node, and `matrix` is float32. The operator numbers branching nodes and leaves
    separately, each over all trees.
    """
    if any(tree.node_count == 1 for tree in trees):
        raise NoGraphError
    starts = np.cumsum([0, *(tree.node_count for tree in trees)])[:-1]
    left, right = (
        np.concatenate([getattr(tree, side) + start for tree, start in zip(trees, starts, strict=True)])
        for side in ("children_left", "children_right")
    )
    leaf = np.concatenate([tree.children_left < 0 for tree in trees])
    number = np.where(leaf, np.cumsum(leaf), np.cumsum(~leaf)) - 1
    thresholds = np.concatenate([tree.threshold for tree in trees])[~leaf]
    features = np.concatenate([tree.feature for tree in trees])[~leaf]
    scores = graph.apply(
        "TreeEnsemble",
        matrix,
        domain="ai.onnx.ml",
        n_targets=1,
        aggregate_function=MEAN,
        tree_roots=number[starts].tolist(),
        nodes_modes=numpy_helper.from_array(np.full(len(thresholds), AT_MOST, dtype="uint8")),
        nodes_featureids=features.tolist(),
        nodes_splits=numpy_helper.from_array(float32_at_most(thresholds)),
        nodes_truenodeids=number[left[~leaf]].tolist(),
        nodes_trueleafs=leaf[left[~leaf]].astype(int).tolist(),
        nodes_falsenodeids=number[right[~leaf]].tolist(),
        nodes_falseleafs=leaf[right[~leaf]].astype(int).tolist(),
        leaf_targetids=[0] * int(leaf.sum()),
        leaf_weights=numpy_helper.from_array(values[leaf].astype("float32")),
    )
    return graph.apply("Cast", scores, to=TensorProto.DOUBLE)


def float32_at_most(thresholds: np.ndarray) -> np.ndarray:
    """Return thresholds as float32, rounded down, so that every comparison with a float32 value stays the same."""
    rounded = thresholds.astype("float32")
    return np.where(rounded > thresholds, np.nextafter(rounded, np.float32(-np.inf)), rounded)


def preprocessed(graph: Graph, pipeline: Pipeline) -> Value:
    """Add the steps before the model, as `build` creates them, and return their columns."""
    steps: dict[str, Any] = dict(pipeline.steps[:-1])
    scaler = steps.pop("scale", None)
    if list(steps) not in (["preprocess"], ["chemistry", "preprocess"]):
        raise NoGraphError
    matrix = graph.rows
    if "chemistry" in steps:
        columns = {name: graph.apply("Gather", matrix, np.array([n]), axis=1) for n, name in enumerate(FEATURES)}
        matrix = graph.apply("Concat", matrix, *chemistry(columns).values(), axis=1)
    means = np.array([[0.0, *steps["preprocess"].named_transformers_["measurements"].statistics_]])
    matrix = graph.apply("Where", graph.apply("IsNaN", matrix), means, matrix)
    return matrix if scaler is None else scaled(graph, scaler, matrix)


def scaled(graph: Graph, scaler: Any, matrix: Value) -> Value:
    """Return columns scaled like by `preprocessing.logarithms`."""
    if not isinstance(scaler, Pipeline) or list(scaler.named_steps) != ["arcsinh", "standardise"]:
        raise NoGraphError
    standardise: Any = scaler["standardise"]
    size = graph.apply("Abs", matrix)  # ONNX Runtime has no Asinh for float64
    arcsinh = graph.apply("Sign", matrix) * graph.apply("Log", size + graph.apply("Sqrt", size * size + 1))
    return (arcsinh - standardise.mean_) / standardise.scale_
