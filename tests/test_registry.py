import shutil
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
import skops.io
from mlflow import MlflowClient
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

from wine_quality import data, registry, tracking
from wine_quality.config import settings
from wine_quality.errors import RegistryError, TrackingError
from wine_quality.models import build, fit, predict
from wine_quality.schema import FEATURES, TARGET
from wine_quality.splits import distinct_wines, train_holdout_split, wine_keys


@pytest.fixture(scope="module")
def many_wines() -> pd.DataFrame:
    """Return some 600 distinct wines of the committed sample."""
    return distinct_wines(data.sample("a test").table).iloc[::9].reset_index(drop=True)


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory) -> Path:
    """Return an MLflow database without runs; to make one takes MLflow seconds, to copy it none."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    store = SqlAlchemyStore(f"sqlite:///{path}", str(path.parent))
    store.engine.dispose()
    return path


@pytest.fixture
def store(empty_store, tmp_path):
    """Return the settings of a test whose MLflow store is ready and empty."""
    shutil.copyfile(empty_store, tmp_path / "mlflow.db")
    config = settings()
    tracking.use_store(config)
    return config


@pytest.fixture(scope="module")
def sides(many_wines):
    return train_holdout_split(many_wines)


@pytest.fixture
def register(store, sides):
    """Return a function that fits a model by its name, logs and registers it, and lets it meet the champion."""

    def run(name: str, source: str = "uci", train=sides[0], holdout=sides[1], **params):
        pipeline = fit(build(name, 1, **params), train)
        with mlflow.start_run() as active:
            mlflow.log_text("\n".join(wine_keys(train)), registry.TRAINED_ON)
            model_id = tracking.log_model(pipeline, train.head(2))
        tracked = tracking.Tracked(active.info.run_id, active.info.experiment_id, model_id)
        verdict = registry.gate(store, pipeline, train, holdout, source)
        version = registry.register(store, tracked, {"data_source": source})
        if verdict.promoted:
            registry.promote(store, version)
        return verdict, version

    return run


def test_a_first_model_must_beat_the_mean(register, store):
    refused, _ = register("mean")
    assert (refused.promoted, refused.gain) == (False, 0)
    assert registry.champion(store) is None
    promoted, version = register("xgboost", n_estimators=8)
    assert promoted.promoted
    assert 0 < promoted.low < promoted.gain < promoted.high
    assert str(registry.champion(store).version) == version


def test_the_alias_moves_only_to_a_better_model(register, store):
    register("xgboost", n_estimators=8)
    worse, second = register("decision_tree")
    assert (worse.promoted, worse.reason) == (False, "not better by more than chance")
    assert worse.gain < 0
    assert str(registry.champion(store).version) == "1"
    assert MlflowClient().get_model_version_by_alias(store.registered_model, "challenger").version == int(second)
    better, third = register("linear")
    assert better.promoted
    assert str(registry.champion(store).version) == third


def test_the_same_model_again_stays_a_challenger(register, store):
    register("xgboost", n_estimators=8)
    again, _ = register("xgboost", n_estimators=8)
    assert (again.promoted, again.gain, again.low, again.high) == (False, 0, 0, 0)


def test_made_up_wine_never_replaces_real_wine(register, store):
    register("mean", source="uci")
    register("xgboost", source="uci", n_estimators=8)
    verdict, _ = register("linear", source="sample")
    assert verdict.gain > 0
    assert not verdict.promoted
    assert "made-up wine" in verdict.reason


def test_real_wine_replaces_made_up_wine(register, store):
    register("xgboost", source="sample", n_estimators=8)
    verdict, _ = register("linear", source="uci")
    assert verdict.promoted


def test_a_champion_trained_on_the_holdout_is_not_compared(register, sides):
    train, holdout = sides
    register("xgboost", train=holdout, holdout=train, n_estimators=8)
    verdict, _ = register("linear")
    assert not verdict.promoted
    assert verdict.reason == f"the champion was trained on {len(holdout)} of the {len(holdout)} hold-out wines"


def test_a_run_that_is_registered_again_keeps_its_version(register, store):
    _, version = register("linear")
    run = registry.champion(store)
    tracked = tracking.Tracked(run.run_id, "1", run.source.removeprefix("models:/"))
    assert registry.register(store, tracked, {}) == version
    _, other = register("linear")
    assert other != version


def test_a_champion_that_does_not_load_is_told(register, store):
    register("xgboost", n_estimators=8)
    shutil.rmtree(store.home / "mlruns")
    with pytest.raises(RegistryError, match=r"wine-quality version 1 does not load .*Give the alias champion"):
        registry.load_version(registry.champion(store))


def test_a_logged_model_loads_from_the_registry_and_predicts_the_same(register, store, sides):
    register("linear")
    expected = predict(fit(build("linear", 1), sides[0]), sides[1])
    assert np.array_equal(predict(registry.load_version(registry.champion(store)), sides[1]), expected)
    loaded = mlflow.pyfunc.load_model("models:/wine-quality@champion")
    assert np.array_equal(loaded.predict(sides[1][FEATURES]), expected)


def test_a_logged_model_has_signature_example_and_requirements(register, store, sides):
    register("xgboost", n_estimators=8)
    info = mlflow.models.get_model_info("models:/wine-quality@champion")
    assert info.signature.inputs.input_names() == FEATURES
    assert {str(kind) for kind in info.signature.inputs.input_types()} == {"DataType.string", "DataType.double"}
    model = mlflow.pyfunc.load_model("models:/wine-quality@champion")
    assert model.input_example[FEATURES].equals(sides[0].head(2)[FEATURES])
    requirements = mlflow.pyfunc.get_model_dependencies("models:/wine-quality@champion")
    assert "scikit-learn==" in Path(requirements).read_text()


@pytest.mark.parametrize("name", ["linear", "decision_tree", "k_neighbors", "random_forest_classifier", "xgboost"])
def test_a_saved_model_loads_and_predicts_the_same(name, sides, tmp_path):
    train, holdout = sides
    pipeline = fit(build(name, 1), train)
    path = tracking.save_model(pipeline, tmp_path / "models" / "m.skops")
    assert np.array_equal(predict(tracking.load_model(path), holdout), predict(pipeline, holdout))
    assert [path.name for path in path.parent.iterdir()] == ["m.skops"]


def test_a_model_file_of_an_untrusted_type_is_refused(tmp_path):
    class Surprise:
        pass

    skops.io.dump(Surprise(), tmp_path / "m.skops")
    with pytest.raises(Exception, match="Surprise"):
        tracking.load_model(tmp_path / "m.skops")


def test_the_dataset_of_a_run_is_logged_with_its_context(store, sides):
    with mlflow.start_run() as run:
        tracking.log_wines(sides[0], "uci", "training")
    (logged,) = mlflow.get_run(run.info.run_id).inputs.dataset_inputs
    assert logged.dataset.name == "uci"
    assert {tag.key: tag.value for tag in logged.tags}["mlflow.data.context"] == "training"
    assert f'"num_rows": {len(sides[0])}' in logged.dataset.profile
    assert TARGET in logged.dataset.schema


def test_the_commit_is_unknown_outside_git(tmp_path, monkeypatch):
    monkeypatch.setattr(tracking, "ROOT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert tracking.git_commit() == "unknown"


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (Path.mkdir, "unable to open database file"),
        (lambda path: path.write_text("no database"), "file is not a database"),
    ],
)
def test_a_store_that_cannot_be_opened_is_told_in_one_line(tmp_path, spoil, why):
    spoil(tmp_path / "mlflow.db")
    with pytest.raises(TrackingError) as caught, tracking.store(settings()):
        pass
    assert str(caught.value) == f"MLflow: {why}. Free some space, or mend MLFLOW_TRACKING_URI, and run again."


def test_a_full_disk_under_the_store_is_told(store, full_disk):
    with pytest.raises(TrackingError, match=r"^MLflow: .*No space left on device"), tracking.store(store):
        raise full_disk


def test_an_error_of_ours_passes_the_store_as_it_is(store):
    with pytest.raises(RegistryError, match="as it is"), tracking.store(store):
        raise RegistryError("as it is")


def test_the_store_is_made_once_and_keeps_its_files_at_home(store):
    tracking.use_store(settings())
    experiment = mlflow.get_experiment_by_name("wine-quality-experiment")
    assert experiment.artifact_location == (store.home / "mlruns").as_uri()
