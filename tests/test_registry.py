import shutil
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
import skops.io
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.models import infer_signature
from sklearn.linear_model import LinearRegression

from wine_quality import data, registry, tracking
from wine_quality.config import settings
from wine_quality.errors import RegistryError, TrackingError
from wine_quality.metrics import rmse_gain
from wine_quality.models import build, fit, predict
from wine_quality.schema import FEATURES, TARGET
from wine_quality.splits import distinct_wines, train_holdout_split


@pytest.fixture(scope="module")
def many_wines() -> pd.DataFrame:
    """Return some 600 distinct wines of the committed sample."""
    return distinct_wines(data.sample("a test").table).iloc[::9].reset_index(drop=True)


@pytest.fixture(scope="module")
def sides(many_wines):
    return train_holdout_split(many_wines)


@pytest.fixture
def register(store, sides):
    """Return a function that fits a model by its name, logs and registers it, and lets it meet the champion."""

    def run(name: str, source: str = "uci", train=sides[0], holdout=sides[1], seed=1, **params):
        pipeline = fit(build(name, seed, **params), train)
        tracked = tracking.log_run(name, pipeline, (train, holdout), source, params)
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
    register("xgboost", n_estimators=2)
    worse, second = register("decision_tree")
    assert (worse.promoted, worse.reason) == (False, "its gain is below the minimum effect of 0.004")
    assert worse.gain < 0
    assert str(registry.champion(store).version) == "1"
    assert MlflowClient().get_model_version_by_alias(store.registered_model, "challenger").version == int(second)
    better, third = register("linear")
    assert better.promoted
    assert str(registry.champion(store).version) == third


def test_the_same_model_again_stays_a_challenger(register, store):
    register("xgboost", n_estimators=8)
    again, _ = register("xgboost", n_estimators=8)
    assert (again.promoted, again.gain) == (False, 0)
    assert again.high == -again.low > 0, "the seed still leaves it open which of the two is better"


def test_a_model_with_a_luckier_seed_stays_a_challenger(register, store, sides):
    train, holdout = sides
    models = {seed: fit(build("random_forest", seed, n_estimators=10), train) for seed in (3, 12)}
    _, low, _ = rmse_gain(holdout[TARGET].to_numpy(), *(predict(model, holdout) for model in models.values()), seed=42)
    assert low > 0, "the rows alone call it better"
    registry.promote(store, register("random_forest", seed=3, n_estimators=10)[1])
    verdict, _ = register("random_forest", seed=12, n_estimators=10)
    assert (verdict.promoted, verdict.use) == (False, 2)
    assert verdict.gain > 0.05
    assert verdict.reason == "not better by more than chance (98.33 % level, use 2 of this gate set)"


def test_a_gain_below_the_minimum_effect_does_not_promote(register, store, sides):
    train, holdout = sides
    register("xgboost", n_estimators=8)
    challenger = fit(build("linear", 1), train)
    gain = registry.gate(store, challenger, train, holdout, "uci").gain
    assert gain > 0
    for minimum, promoted in ((0.99 * gain, True), (1.01 * gain, False)):
        verdict = registry.gate(settings(minimum_gain=minimum), challenger, train, holdout, "uci")
        assert verdict.promoted is promoted
    assert verdict.reason == f"its gain is below the minimum effect of {1.01 * gain:g}"


def test_each_version_counts_as_a_use_of_its_gate_set_until_that_grows(register, store, sides):
    train, holdout = sides
    uses = [register("linear")[0].use for _ in range(3)]
    assert uses == [1, 2, 3]
    challenger = fit(build("linear", 1), train)
    assert [registry.gate(store, challenger, train, holdout, "uci").use for _ in range(2)] == [4, 4], "a retried task"
    before, after = (
        registry.gate(store, challenger, train, rows, "uci") for rows in (holdout, pd.concat([holdout, train.head(1)]))
    )
    assert (before.use, after.use) == (4, 1)
    assert before.confidence > after.confidence == 0.95


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
    assert verdict.reason == f"the champion was trained on {len(holdout)} of the {len(holdout)} rows of the gate set"


@pytest.fixture
def version_of(store, sides):
    """Return a function that logs a run of the linear model and registers it as a version, past the gate."""

    def register(holdout=sides[1], by_browser=False) -> str:
        run = tracking.log_run("linear", fit(build("linear", 1), sides[0]), (sides[0], holdout), "uci", {})
        if by_browser:
            name, source = store.registered_model, f"models:/{run.model_id}"
            return str(MlflowClient().create_model_version(name, source, run.run_id, model_id=run.model_id).version)
        return registry.register(store, run, {})

    return register


def alias(store) -> str:
    return str(registry.champion(store).version)


def test_a_promotion_moves_the_alias_and_a_rollback_gives_it_back_step_by_step(version_of, store):
    for _ in range(3):
        registry.promote(store, version_of())
    registry.promote(store, "3")
    assert alias(store) == "3"
    assert registry.rollback(store) == alias(store) == "2"
    assert registry.rollback(store) == alias(store) == "1"
    with pytest.raises(RegistryError, match="has no earlier champion"):
        registry.rollback(store)
    assert alias(store) == "1"


def test_without_a_champion_there_is_nothing_to_go_back_to(store):
    with pytest.raises(RegistryError, match="wine-quality has no earlier champion"):
        registry.rollback(store)


def test_a_rollback_to_a_version_that_does_not_load_moves_nothing(version_of, store):
    for _ in range(2):
        registry.promote(store, version_of())
    first = MlflowClient().get_model_version("wine-quality", "1").source.removeprefix("models:/")
    shutil.rmtree(MlflowClient().get_logged_model(first).artifact_location.removeprefix("file://"))
    with pytest.raises(RegistryError, match="version 1 does not load"):
        registry.rollback(store)
    assert alias(store) == "2"


def test_a_promotion_over_a_champion_without_files_says_so(version_of, store):
    registry.promote(store, version_of())
    shutil.rmtree(store.home / "mlruns")
    with pytest.raises(RegistryError, match="version 1 does not load"):
        registry.promote(store, version_of())


@pytest.mark.parametrize("status", ["RUNNING", "FAILED", "KILLED"])
def test_a_version_of_an_unfinished_run_is_not_promoted(version_of, store, status):
    version = version_of()
    MlflowClient().update_run(MlflowClient().get_model_version("wine-quality", version).run_id, status)
    with pytest.raises(RegistryError, match=rf"version 1 is not promoted: its run is {status.lower()}, not finished"):
        registry.promote(store, version)
    assert registry.champion(store) is None


def test_a_version_of_another_signature_is_not_promoted(version_of, store, sides):
    registry.promote(store, version_of())
    one_column = LinearRegression().fit(sides[0][["alcohol"]], sides[0][TARGET])
    with mlflow.start_run() as run:
        signed = infer_signature(sides[0][["alcohol"]], one_column.predict(sides[0][["alcohol"]]))
        logged = mlflow.sklearn.log_model(one_column, name="model", signature=signed, pip_requirements=["scikit-learn"])
    tracked = tracking.Tracked(run.info.run_id, run.info.experiment_id, logged.model_id)
    version = registry.register(store, tracked, {})
    with pytest.raises(RegistryError, match="its signature differs from that of the champion, version 1"):
        registry.promote(store, version)
    assert alias(store) == "1"


def test_a_version_of_another_holdout_is_promoted_only_after_both_met_on_it(version_of, store, sides):
    train, holdout = sides
    registry.promote(store, version_of())
    version = version_of(holdout.iloc[1:])
    with pytest.raises(RegistryError, match="its gate set is not that of the champion, version 1"):
        registry.promote(store, version)
    registry.gate(store, fit(build("linear", 1), train), train, holdout.iloc[1:], "uci")
    registry.promote(store, version)
    assert alias(store) == version


def test_a_version_made_in_the_browser_is_judged_by_its_run(version_of, store, sides):
    registry.promote(store, version_of())
    version = version_of(by_browser=True)
    registry.promote(store, version)
    assert alias(store) == version
    origin = registry.lineage(registry.champion(store))
    assert (origin["run"], origin["data_source"]) == ("linear", "uci")
    assert origin["holdout_sha256"] == tracking.checksum(sides[1])
    assert origin["git_commit"] == "unknown"


def test_the_checksum_of_wines_hangs_on_the_wines_and_not_on_their_order(sides):
    holdout = sides[1]
    assert tracking.checksum(holdout.iloc[::-1]) == tracking.checksum(holdout)
    assert tracking.checksum(holdout.iloc[1:]) != tracking.checksum(holdout)


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
    assert model.input_example[FEATURES].equals(sides[0].head(3)[FEATURES])
    requirements = mlflow.pyfunc.get_model_dependencies("models:/wine-quality@champion")
    assert "scikit-learn==" in Path(requirements).read_text()


SAVED = ["linear", "decision_tree", "k_neighbors", "random_forest_classifier", "xgboost", "svr", "kernel_ridge"]


@pytest.mark.parametrize("features", ["measured", "chemist"])
@pytest.mark.parametrize("name", SAVED)
def test_a_saved_model_loads_and_predicts_the_same(name, features, sides, tmp_path):
    train, holdout = sides
    pipeline = fit(build(name, 1, features), train)
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


def test_a_full_disk_that_mlflow_calls_something_else_is_told_as_what_it_is(store, full_disk):
    misnamed = MlflowException("the model could not be serialized")
    misnamed.__cause__ = full_disk
    with pytest.raises(TrackingError, match=r"^MLflow: .*No space left on device"), tracking.store(store):
        raise misnamed


def test_an_error_of_ours_passes_the_store_as_it_is(store):
    with pytest.raises(RegistryError, match="as it is"), tracking.store(store):
        raise RegistryError("as it is")


def test_the_store_is_made_once_and_keeps_its_files_at_home(store):
    tracking.use_store(settings())
    experiment = mlflow.get_experiment_by_name("wine-quality-experiment")
    assert experiment.artifact_location == (store.home / "mlruns").as_uri()
