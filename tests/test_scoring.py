"""A registered version scores as its pipeline does, and only from the registered files."""

import tempfile
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient
from versions import (
    artifacts,
    few_sides,
    graph_path,
    model_path,
    register_model,
    register_with_columns,
    tamper,
    version,
)

from wine_quality import intervals, registry, scoring, tracking
from wine_quality.errors import RegistryError
from wine_quality.files import sha256
from wine_quality.models import BLEND, MEMBERS, MODELS, build, fit, predict
from wine_quality.registry import MODEL_SHA256, load_version
from wine_quality.schema import FEATURES, MEASUREMENTS, to_matrix
from wine_quality.scoring import NO_ONNX, ONNX_SUM, load_scorer
from wine_quality.tracking import Tracked

CONVERTED = ("decision_tree", "random_forest", "extra_trees", "extra_trees_tuned", *MEMBERS, BLEND)
SLOW = pytest.param("extra_trees_tuned", marks=pytest.mark.slow)
NAMES = [SLOW if name == "extra_trees_tuned" else name for name in [*MODELS, BLEND]]


@pytest.fixture(scope="module")
def train_and_gate():
    return few_sides()


@pytest.fixture(scope="module")
def rows_to_score(train_and_gate) -> pd.DataFrame:
    """Rows of the gate set: unchanged, with one blank each, and with blanks only."""
    _, gate_set = train_and_gate
    nothing = gate_set.assign(**dict.fromkeys(MEASUREMENTS, np.nan))
    return pd.concat([gate_set, scoring.with_blanks(gate_set), nothing], ignore_index=True)


@pytest.fixture
def linear(config):
    return register_model(config, "linear")


@pytest.fixture
def tree(config):
    """A version with a graph."""
    return register_model(config, "decision_tree")


def without_tags(config, one, *tags: str):
    for tag in set(tags) & set(one.tags):
        MlflowClient().delete_model_version_tag(one.name, str(one.version), tag)
    return version(config, str(one.version))


def unprepared(config, one):
    """Return a version as if someone had moved the alias to it by hand, so that it never went through `log_graph`."""
    return without_tags(config, one, ONNX_SUM, NO_ONNX)


@pytest.mark.parametrize("features", ["measured", "engineered"])
@pytest.mark.parametrize("name", NAMES)
def test_a_version_scores_a_row_as_its_pipeline_does_alone_or_with_others(name, features, config, store, rows_to_score):
    one = register_model(config, name, features)
    scorer = load_scorer(config, one)
    assert scorer.engine == ("onnx" if name in CONVERTED else "pipeline")
    assert (scorer.version, scorer.run_id) == ("1", one.run_id)
    assert scorer.signature.inputs.input_names() == FEATURES
    matrix = to_matrix(rows_to_score)
    scores = scorer.score(matrix)
    assert scores.dtype == "float64"
    assert np.abs(scores - predict(load_version(store, one), rows_to_score)).max() <= 1e-4
    for row in range(0, len(rows_to_score), 5):
        assert scorer.score(matrix[row : row + 1])[0] == scores[row]


def test_a_graph_decides_as_its_pipeline_for_values_at_a_threshold(train_and_gate, tmp_path):
    train, _ = train_and_gate
    pipeline = fit(build("extra_trees", 1), train)
    path = tmp_path / "m.onnx"
    path.write_bytes(scoring.to_onnx(pipeline))
    rows = at_branches(train, pipeline["model"].estimators_)
    assert np.abs(scoring.graph_predict([path])(to_matrix(rows))[:, 0] - predict(pipeline, rows)).max() <= 1e-4


def at_branches(rows: pd.DataFrame, trees: list) -> pd.DataFrame:
    """Return rows in which one measurement equals a split threshold of a tree, or barely exceeds it."""
    moved = rows.reset_index(drop=True)
    for number, tree in zip(moved.index, trees * len(moved), strict=False):
        column, threshold = tree.tree_.feature[0], tree.tree_.threshold[0]
        near = [threshold, np.nextafter(threshold, np.inf), np.nextafter(np.float32(threshold), np.float32(np.inf))]
        if column > 0:
            moved.loc[number, FEATURES[column]] = near[number % 3]
    return moved


def rejection(config, one) -> str:
    """Return the error of a rejected version, after checking what all such errors have in common."""
    with pytest.raises(RegistryError) as caught:
        load_scorer(config, one)
    line = str(caught.value)
    assert line.startswith("wine-quality version 1 cannot be used: ")
    assert line.endswith(". Move the alias champion to another version, or train again with `make run`.")
    assert str(config.home) not in line
    assert tempfile.gettempdir() not in line
    return line


@pytest.mark.parametrize(
    ("spoil", "what"),
    [
        (tamper, "isn't the registered file (its SHA-256 checksum differs)"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "isn't the registered file"),
        (lambda path: path.write_bytes(b""), "isn't the registered file"),
        (Path.unlink, "is missing or unreachable"),
    ],
)
@pytest.mark.parametrize("find", [model_path, graph_path])
def test_a_version_with_a_file_other_than_the_registered_one_is_rejected(spoil, what, find, config, tree):
    assert load_scorer(config, tree).engine == "onnx"
    spoil(find(tree))
    line = rejection(config, tree)
    assert what in line
    assert find(tree).name in line


def test_a_version_without_its_signature_is_rejected(config, linear):
    model_path(linear).with_name("MLmodel").unlink()
    assert "MLmodel is missing or unreachable" in rejection(config, linear)


@pytest.mark.parametrize(("find", "tag"), [(model_path, MODEL_SHA256), (graph_path, ONNX_SUM)])
def test_a_registered_file_that_cannot_be_loaded_is_rejected(find, tag, config):
    one = register_model(config, "decision_tree" if tag == ONNX_SUM else "linear")
    find(one).write_bytes(b"no model")
    MlflowClient().set_model_version_tag(one.name, "1", tag, sha256(find(one)))
    assert f"{find(one).name} can't be loaded or used (" in rejection(config, version(config, "1"))


def test_a_version_without_a_recorded_checksum_is_rejected(config, linear):
    assert "no checksum of model.skops is recorded" in rejection(config, without_tags(config, linear, MODEL_SHA256))


def test_a_version_with_other_columns_is_rejected(config):
    one = register_with_columns(config, ["alcohol"], "float64")
    assert "its input columns aren't those of the schema" in rejection(config, one)


def test_a_version_has_the_sum_of_its_model_file_also_when_it_is_registered_again(config, store, linear):
    (model,) = store.client.search_logged_models([store.experiment_id])
    tracked = Tracked(linear.run_id, store.experiment_id, model.model_id)
    assert linear.tags[MODEL_SHA256] == sha256(model_path(linear))
    without_tags(config, linear, MODEL_SHA256)
    assert registry.register(store, tracked, {}) == "1"
    assert version(config, "1").tags == linear.tags
    tamper(model_path(linear))
    registry.register(store, tracked, {})
    assert version(config, "1").tags == linear.tags, "a file that was changed does not become the registered one"


def test_a_version_with_a_graph_is_not_converted_twice(config, store, train_and_gate, tree, monkeypatch):
    assert tree.tags[ONNX_SUM] == sha256(graph_path(tree))
    with monkeypatch.context() as broken:
        broken.setattr(scoring, "to_onnx", None)
        scoring.log_graph(store, "1", train_and_gate[1])
    assert version(config, "1").tags == tree.tags


def test_an_incomplete_graph_is_not_used_until_the_next_run_completes_it(config, store, train_and_gate, tree):
    graph_path(tree).write_bytes(graph_path(tree).read_bytes()[:100])
    scorer = load_scorer(config, without_tags(config, tree, ONNX_SUM))
    assert scorer.why.startswith("converted to ONNX at load time")
    scoring.log_graph(store, "1", train_and_gate[1])
    assert load_scorer(config, version(config, "1")).engine == "onnx"


def test_a_graph_that_scores_differently_is_not_stored_and_the_version_says_why(config, train_and_gate, monkeypatch):
    other = scoring.to_onnx(fit(build("decision_tree", 1, max_depth=2), train_and_gate[0]))
    monkeypatch.setattr(scoring, "to_onnx", lambda *_pipelines: other)
    one = register_model(config, "decision_tree")
    assert ONNX_SUM not in one.tags
    assert one.tags[NO_ONNX].startswith("it differs from the pipeline by ")
    assert scoring.ONNX_FILE not in [file.path for file in MlflowClient().list_artifacts(one.run_id)]
    assert load_scorer(config, one).engine == "pipeline"


def test_a_changed_model_is_not_converted(config, store, train_and_gate, tree):
    without_tags(config, tree, ONNX_SUM)
    tamper(model_path(tree))
    with pytest.raises(RegistryError, match=r"version 1 cannot be used: model\.skops isn't the registered file"):
        scoring.log_graph(store, "1", train_and_gate[1])
    assert ONNX_SUM not in version(config, "1").tags


def test_a_forest_that_was_never_prepared_is_converted_when_it_is_loaded(config, rows_to_score):
    one = register_model(config, "extra_trees", n_estimators=10)
    prepared, by_hand = load_scorer(config, one), load_scorer(config, unprepared(config, one))
    assert (prepared.engine, by_hand.engine) == ("onnx", "onnx")
    assert by_hand.why.startswith("converted to ONNX at load time, and verified against its pipeline on ")
    assert np.array_equal(by_hand.score(to_matrix(rows_to_score)), prepared.score(to_matrix(rows_to_score)))
    assert ONNX_SUM not in version(config, "1").tags


def test_a_graph_made_at_loading_that_differs_from_its_pipeline_is_not_used(config, tree, monkeypatch):
    exact = scoring.graph_predict
    monkeypatch.setattr(scoring, "graph_predict", lambda paths: lambda rows: exact(paths)(rows) + 0.01)
    scorer = load_scorer(config, unprepared(config, tree))
    why = "no ONNX graph: it differs from the pipeline by 0.01, more than 0.0001"
    assert (scorer.engine, scorer.why) == ("pipeline", why)


def test_a_model_without_a_converter_says_so_prepared_or_not_and_has_no_graph(config, linear):
    why = "it would be no faster, or there is no converter"
    assert linear.tags[NO_ONNX] == why
    assert mlflow.artifacts.list_artifacts(run_id=linear.run_id, artifact_path=scoring.ONNX_FILE) == []
    for one in (linear, unprepared(config, linear)):
        assert load_scorer(config, one).why == f"no ONNX graph: {why}"


@pytest.mark.parametrize(("name", "engine"), [("extra_trees", "onnx"), ("linear", "pipeline")])
def test_a_version_with_intervals_scores_alike_by_either_engine_alone_and_among_others(
    name, engine, config, store, rows_to_score
):
    one = register_model(config, name, intervals=True)
    scorer, matrix = load_scorer(config, one), to_matrix(rows_to_score)
    assert scorer.engine == engine
    score, low, high = scorer.score_with_interval(matrix).T
    half_widths = predict(tracking.load_model(artifacts(one) / tracking.INTERVAL_FILE), rows_to_score)
    expected = intervals.bounds(predict(load_version(store, one), rows_to_score), half_widths)
    assert np.abs(np.array([low, high]) - expected).max() <= 1e-4
    assert (low < score).all()
    assert (scorer.score(matrix) == score).all()
    alone = np.concatenate([scorer.score_with_interval(matrix[row : row + 1]) for row in range(0, len(matrix), 5)])
    assert np.array_equal(alone, np.column_stack([score, low, high])[::5])


def test_a_version_without_intervals_scores_with_blanks_in_their_place(config, tree, rows_to_score):
    scored = load_scorer(config, tree).score_with_interval(to_matrix(rows_to_score))
    assert np.isnan(scored[:, 1:]).all()
    assert np.isfinite(scored[:, 0]).all()


def test_many_rows_are_scored_in_parts_and_none_as_well(config, tree, rows_to_score, monkeypatch):
    matrix, scorer = to_matrix(rows_to_score), load_scorer(config, tree)
    whole = scorer.score(matrix)
    monkeypatch.setattr(scoring, "PART", 7)
    assert np.array_equal(scorer.score(matrix), whole)
    assert scorer.score_with_interval(matrix[:0]).shape == (0, 3)


def test_an_interval_model_other_than_the_registered_one_is_rejected(config, store):
    one = register_model(config, "linear", intervals=True)
    tamper(artifacts(one) / tracking.INTERVAL_FILE)
    assert "interval.skops isn't the registered file" in rejection(config, one)
