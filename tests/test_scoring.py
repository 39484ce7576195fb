"""A registered version scores as its pipeline does, and only from the files that were registered."""

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
def sides():
    return few_sides()


@pytest.fixture(scope="module")
def rows_to_score(sides) -> pd.DataFrame:
    """Wines of the gate set as they are, with a blank each, and with nothing but blanks."""
    _, gate_set = sides
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
    """Return a version as it is when it never went through `prepare`: someone moves the alias to it by hand."""
    return without_tags(config, one, ONNX_SUM, NO_ONNX)


@pytest.mark.parametrize("features", ["measured", "engineered"])
@pytest.mark.parametrize("name", NAMES)
def test_a_version_scores_as_its_pipeline_does_alone_and_among_others(name, features, config, store, rows_to_score):
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


def test_a_graph_decides_as_its_pipeline_where_a_wine_lies_on_a_branch(sides, tmp_path):
    train, _ = sides
    pipeline = fit(build("extra_trees", 1), train)
    path = tmp_path / "m.onnx"
    path.write_bytes(scoring.to_onnx(pipeline))
    wines = at_branches(train, pipeline["model"].estimators_)
    assert np.abs(scoring.graph_predict([path])(to_matrix(wines))[:, 0] - predict(pipeline, wines)).max() <= 1e-4


def at_branches(wines: pd.DataFrame, trees: list) -> pd.DataFrame:
    """Return wines each of which has, in one measurement, what a branch of a tree asks for, or hardly more."""
    moved = wines.reset_index(drop=True)
    for number, tree in zip(moved.index, trees * len(moved), strict=False):
        column, threshold = tree.tree_.feature[0], tree.tree_.threshold[0]
        near = [threshold, np.nextafter(threshold, np.inf), np.nextafter(np.float32(threshold), np.float32(np.inf))]
        if column > 0:
            moved.loc[number, FEATURES[column]] = near[number % 3]
    return moved


def refusal(config, one) -> str:
    """Return the line with which a version is refused, after a look at what every such line keeps to."""
    with pytest.raises(RegistryError) as caught:
        load_scorer(config, one)
    line = str(caught.value)
    assert line.startswith("wine-quality version 1 cannot be used: ")
    assert line.endswith(". Give the alias champion to another version, or train again with `make run`.")
    assert str(config.home) not in line
    assert tempfile.gettempdir() not in line
    return line


@pytest.mark.parametrize(
    ("spoil", "what"),
    [
        (tamper, "is not the file that was noted (its sha256 sum differs)"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "is not the file that was noted"),
        (lambda path: path.write_bytes(b""), "is not the file that was noted"),
        (Path.unlink, "is missing or out of reach"),
    ],
)
@pytest.mark.parametrize("find", [model_path, graph_path])
def test_a_version_with_a_file_that_is_not_the_registered_one_is_refused(spoil, what, find, config, tree):
    assert load_scorer(config, tree).engine == "onnx"
    spoil(find(tree))
    line = refusal(config, tree)
    assert what in line
    assert find(tree).name in line


def test_a_version_whose_signature_is_gone_is_refused(config, linear):
    model_path(linear).with_name("MLmodel").unlink()
    assert "MLmodel is missing or out of reach" in refusal(config, linear)


@pytest.mark.parametrize(("find", "tag"), [(model_path, MODEL_SHA256), (graph_path, ONNX_SUM)])
def test_a_registered_file_that_does_not_load_is_refused(find, tag, config):
    one = register_model(config, "decision_tree" if tag == ONNX_SUM else "linear")
    find(one).write_bytes(b"no model")
    MlflowClient().set_model_version_tag(one.name, "1", tag, sha256(find(one)))
    assert f"{find(one).name} does not load or score (" in refusal(config, version(config, "1"))


def test_a_version_without_a_noted_sum_is_refused(config, linear):
    assert "no sum of model.skops was noted" in refusal(config, without_tags(config, linear, MODEL_SHA256))


def test_a_version_of_other_columns_is_refused(config):
    one = register_with_columns(config, ["alcohol"], "float64")
    assert "it takes other columns than those of wine" in refusal(config, one)


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


def test_a_version_with_a_graph_is_not_converted_twice(config, store, sides, tree, monkeypatch):
    assert tree.tags[ONNX_SUM] == sha256(graph_path(tree))
    with monkeypatch.context() as broken:
        broken.setattr(scoring, "to_onnx", None)
        scoring.log_graph(store, "1", sides[1])
    assert version(config, "1").tags == tree.tags


def test_a_graph_left_half_written_is_no_graph_until_the_next_try_makes_it_whole(config, store, sides, tree):
    graph_path(tree).write_bytes(graph_path(tree).read_bytes()[:100])
    scorer = load_scorer(config, without_tags(config, tree, ONNX_SUM))
    assert scorer.why.startswith("converted to ONNX when it was loaded")
    scoring.log_graph(store, "1", sides[1])
    assert load_scorer(config, version(config, "1")).engine == "onnx"


def test_a_graph_that_scores_otherwise_is_not_kept_and_the_version_says_why(config, sides, monkeypatch):
    other = scoring.to_onnx(fit(build("decision_tree", 1, max_depth=2), sides[0]))
    monkeypatch.setattr(scoring, "to_onnx", lambda *_pipelines: other)
    one = register_model(config, "decision_tree")
    assert ONNX_SUM not in one.tags
    assert one.tags[NO_ONNX].startswith("it differs from the pipeline by ")
    assert scoring.ONNX_FILE not in [file.path for file in MlflowClient().list_artifacts(one.run_id)]
    assert load_scorer(config, one).engine == "pipeline"


def test_a_changed_model_is_not_converted(config, store, sides, tree):
    without_tags(config, tree, ONNX_SUM)
    tamper(model_path(tree))
    with pytest.raises(RegistryError, match=r"version 1 cannot be used: model\.skops is not the file that was noted"):
        scoring.log_graph(store, "1", sides[1])
    assert ONNX_SUM not in version(config, "1").tags


def test_a_forest_that_was_never_prepared_is_converted_when_it_is_loaded(config, rows_to_score):
    one = register_model(config, "extra_trees", n_estimators=10)
    prepared, by_hand = load_scorer(config, one), load_scorer(config, unprepared(config, one))
    assert (prepared.engine, by_hand.engine) == ("onnx", "onnx")
    assert by_hand.why.startswith("converted to ONNX when it was loaded, and checked against its pipeline on ")
    assert np.array_equal(by_hand.score(to_matrix(rows_to_score)), prepared.score(to_matrix(rows_to_score)))
    assert ONNX_SUM not in version(config, "1").tags


def test_a_graph_made_at_loading_that_differs_from_its_pipeline_is_not_used(config, tree, monkeypatch):
    exact = scoring.graph_predict
    monkeypatch.setattr(scoring, "graph_predict", lambda paths: lambda rows: exact(paths)(rows) + 0.01)
    scorer = load_scorer(config, unprepared(config, tree))
    why = "no ONNX graph: it differs from the pipeline by 0.01, more than 0.0001"
    assert (scorer.engine, scorer.why) == ("pipeline", why)


def test_a_model_without_a_converter_says_so_prepared_or_not_and_has_no_graph(config, linear):
    why = "it would gain nothing, or has no converter"
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


def test_an_interval_that_is_not_the_registered_one_is_refused(config, store):
    one = register_model(config, "linear", intervals=True)
    tamper(artifacts(one) / tracking.INTERVAL_FILE)
    assert "interval.skops is not the file that was noted" in refusal(config, one)
