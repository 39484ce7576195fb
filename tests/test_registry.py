import shutil
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
import skops.io
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from versions import model_path, register_with_columns, version

from wine_quality import registry, retention, scoring, sources, tracking
from wine_quality.config import settings
from wine_quality.errors import RegistryError, TrackingError
from wine_quality.metrics import rmse_gain
from wine_quality.models import build, fit, predict
from wine_quality.ports import free_port
from wine_quality.schema import FEATURES, TARGET
from wine_quality.splits import distinct_rows, train_gate_split

RULES = {"seed": 42, "minimum_gain": 0.004}  # of a comparison
CLASH = MlflowException("(sqlite3.IntegrityError) UNIQUE constraint failed: datasets.experiment_id, datasets.name")


@pytest.fixture(scope="module")
def sets():
    return train_gate_split(distinct_rows(sources.sample("a test").table).iloc[::9].reset_index(drop=True))


@pytest.fixture(scope="module")
def linear(sets):
    return fit(build("linear", 1), sets[0])


@pytest.fixture
def register(store, sets):
    def run(name: str, source: str = "uci", train=sets[0], gate_set=sets[1], seed=1, **params):
        pipeline = fit(build(name, seed, **params), train)
        tracked = tracking.log_run(store, name, pipeline, (train, gate_set), source, params)
        verdict = registry.compare(store, pipeline, train, gate_set, source, **RULES)
        registry.record_comparison(store, verdict)
        number = registry.register(store, tracked, {"data_source": source})
        registry.describe(store, number, verdict)
        if verdict.promoted:
            registry.promote(store, number)
        return verdict, number

    return run


@pytest.fixture
def compared(store, sets, linear):
    """Return a function that compares a linear model with the champion, and leaves no trace."""

    def compare(gate_set=sets[1], **rules):
        return registry.compare(store, linear, sets[0], gate_set, "uci", **RULES | rules)

    return compare


@pytest.fixture
def version_of(config, store, sets, linear):
    """Return a function that logs a run of the linear model and registers it as a version, past the gate."""

    def register(gate_set=sets[1], by_browser=False) -> str:
        run = tracking.log_run(store, "linear", linear, (sets[0], gate_set), "uci", {})
        if by_browser:
            name, source = config.registered_model, f"models:/{run.model_id}"
            return str(MlflowClient().create_model_version(name, source, run.run_id, model_id=run.model_id).version)
        return registry.register(store, run, {})

    return register


def alias(store) -> str:
    return str(registry.champion(store).version)


def aliases(store) -> dict[str, str]:
    found = store.client.get_registered_model(store.model_name).aliases
    return {name: str(version) for name, version in found.items()}


def described(store, version: str) -> str:
    return store.client.get_model_version(store.model_name, version).description


def test_a_first_model_must_beat_the_mean(register, store):
    refused, _ = register("mean")
    assert (refused.promoted, refused.gain) == (False, 0)
    assert registry.champion(store) is None
    promoted, version = register("xgboost_tuned", n_estimators=8)
    assert promoted.promoted
    assert 0 < promoted.low < promoted.gain < promoted.high
    assert alias(store) == version


def test_the_alias_moves_only_to_a_better_model(register, store):
    register("xgboost_tuned", n_estimators=2)
    worse, second = register("decision_tree")
    assert (worse.promoted, worse.reason) == (False, "its gain is below the minimum effect of 0.004")
    assert worse.gain < 0
    assert aliases(store) == {"champion": "1", "challenger": second}
    better, third = register("linear")
    assert better.promoted
    assert alias(store) == third


def test_the_process_wide_store_of_mlflow_is_never_used_and_a_new_home_is_created(tmp_path, sets, linear):
    config = settings(home=tmp_path / "new" / "home")
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/elsewhere.db")
    with tracking.store(config) as store:
        for name, pipeline in {"linear": linear, "xgboost": fit(build("xgboost_tuned", 1), sets[0])}.items():
            run = tracking.log_run(store, name, pipeline, sets, "uci", {})
            verdict = registry.compare(store, pipeline, *sets, "uci", **RULES)
            registry.record_comparison(store, verdict)
            number = registry.register(store, run, {})
            registry.describe(store, number, verdict)
            scoring.log_graph(store, number, sets[1])
            registry.promote(store, number)
        assert registry.rollback(store) == "1"
        current = registry.champion(store)
        assert registry.lineage(store, current)["run"] == "linear"
        assert retention.beyond_newest(store, 1) == []
    assert scoring.load_scorer(config, current).version == "1"
    assert mlflow.search_runs(search_all_experiments=True).empty  # MLflow opens it, and finds nothing of ours there


def test_the_same_model_again_stays_a_challenger(register):
    register("xgboost_tuned", n_estimators=8)
    again, _ = register("xgboost_tuned", n_estimators=8)
    assert (again.promoted, again.gain) == (False, 0)
    assert again.high == -again.low > 0, "because of the seeds, either of the two may be better"


def test_a_model_with_a_luckier_seed_stays_a_challenger(register, store, sets):
    train, gate_set = sets
    models = [fit(build("random_forest", seed, n_estimators=10), train) for seed in (3, 12)]
    _, low, _ = rmse_gain(gate_set[TARGET].to_numpy(), *(predict(model, gate_set) for model in models), seed=42)
    assert low > 0, "an interval over the rows alone excludes zero"
    registry.promote(store, register("random_forest", seed=3, n_estimators=10)[1])
    verdict, _ = register("random_forest", seed=12, n_estimators=10)
    assert (verdict.promoted, verdict.use) == (False, 2)
    assert verdict.gain > 0.05
    assert verdict.reason == "not significantly better (98.33 % level, comparison 2)"


def test_a_gain_below_the_minimum_effect_does_not_promote(register, compared):
    register("xgboost_tuned", n_estimators=8)
    gain = compared().gain
    assert gain > 0
    assert compared(minimum_gain=0.99 * gain).promoted
    verdict = compared(minimum_gain=1.01 * gain)
    assert (verdict.promoted, verdict.reason) == (False, f"its gain is below the minimum effect of {1.01 * gain:g}")


def test_each_version_counts_as_a_use_of_its_gate_set_until_that_grows(register, compared, sets):
    assert [register("linear")[0].use for _ in range(3)] == [1, 2, 3]
    before, retried, after = compared(), compared(), compared(pd.concat([sets[1], sets[0].head(1)]))
    assert (before.use, retried.use, after.use) == (4, 4, 1)
    assert before.confidence > after.confidence == 0.95


def test_a_model_of_synthetic_data_never_replaces_one_of_real_data_which_replaces_it(register):
    register("xgboost_tuned", source="sample", n_estimators=2)
    assert register("xgboost_tuned", source="uci", n_estimators=8)[0].promoted
    verdict, _ = register("linear", source="sample")
    assert verdict.gain > 0
    assert not verdict.promoted
    assert "synthetic data" in verdict.reason


def test_a_champion_trained_on_the_gate_set_is_not_compared(register, sets):
    train, gate_set = sets
    register("xgboost_tuned", train=gate_set, gate_set=train, n_estimators=8)
    verdict, _ = register("linear")
    assert not verdict.promoted
    assert verdict.reason == f"the champion was trained on {len(gate_set)} of the {len(gate_set)} rows of the gate set"


def test_a_promotion_moves_the_alias_and_each_rollback_moves_it_back_one_version(version_of, store):
    with pytest.raises(RegistryError, match="wine-quality has no earlier champion"):
        registry.rollback(store)
    for _ in range(3):
        registry.promote(store, version_of())
    registry.promote(store, "3")
    assert alias(store) == "3"
    assert registry.rollback(store) == alias(store) == "2"
    assert registry.rollback(store) == alias(store) == "1"
    with pytest.raises(RegistryError, match="has no earlier champion"):
        registry.rollback(store)
    assert alias(store) == "1"


def test_a_description_has_the_scores_the_data_and_the_result_of_the_gate(register, store):
    first, _ = register("xgboost_tuned", n_estimators=8)
    scores = MlflowClient().get_run(registry.champion(store).run_id).data.metrics
    text = described(store, "1")
    assert f"| gate set | {scores['gate_rmse']:.4f} | {scores['gate_r2']:.3f} |" in text
    assert "\nuci: origin not logged. " in text
    assert "rows for training, " in text
    assert f"**Promoted**: {first.reason}. RMSE on the gate set lower by {first.gain:.4f} than the mean" in text
    assert f"(95 % interval {first.low:.4f} to {first.high:.4f}; negative means higher)" in text
    refused, second = register("decision_tree")
    assert f"**Rejected**: {refused.reason}. RMSE on the gate set lower by -" in described(store, second)
    assert "than champion version 1 " in described(store, second)


def test_a_description_records_promotions_and_rollbacks_and_is_otherwise_unchanged(register, store):
    register("xgboost_tuned", n_estimators=8)
    before = described(store, "1")
    assert before.endswith("UTC: champion, in place of none.")
    register("linear")
    assert described(store, "1").startswith(before)
    assert described(store, "1").endswith("UTC: replaced as champion by version 2.")
    assert described(store, "2").endswith("UTC: champion, in place of version 1.")
    registry.promote(store, "2")
    assert described(store, "2").count("champion, in place of") == 1
    registry.rollback(store)
    assert described(store, "1").endswith("UTC: champion again: version 2 was rolled back.")
    assert described(store, "2").endswith("UTC: rolled back; version 1 is champion again.")


def test_a_version_that_becomes_champion_loses_the_alias_challenger_even_after_an_interrupted_promotion(
    version_of, config, store
):
    first, second = version_of(), version_of()
    assert aliases(store) == {"challenger": second}
    registry.promote(store, first)
    assert aliases(store) == {"challenger": second, "champion": first}
    registry.promote(store, second)
    assert aliases(store) == {"champion": second}
    MlflowClient().set_registered_model_alias(config.registered_model, "challenger", first)
    registry.rollback(store)
    assert aliases(store) == {"champion": first}
    third = version_of()
    MlflowClient().set_registered_model_alias(config.registered_model, "champion", third)
    assert aliases(store) == {"challenger": third, "champion": third}
    registry.promote(store, third)
    assert aliases(store) == {"champion": third}


def test_an_approval_stands_although_others_were_compared_with_the_champion_in_the_meantime(
    version_of, compared, store, sets
):
    registry.promote(store, version_of())
    waiting = version_of()
    registry.await_approval(store, waiting, "a flow run")
    registry.record_comparison(store, compared(sets[1].iloc[1:]))
    registry.promote_approved(store, waiting, "1", "seen")
    assert alias(store) == waiting


@pytest.mark.parametrize("spoil", [Path.unlink, lambda path: path.write_bytes(path.read_bytes()[:300])])
def test_a_rollback_to_a_version_that_does_not_load_moves_nothing(version_of, config, store, spoil):
    for _ in range(2):
        registry.promote(store, version_of())
    spoil(model_path(version(config, "1")))
    with pytest.raises(RegistryError, match="version 1 does not load"):
        registry.rollback(store)
    assert alias(store) == "2"


def test_a_champion_that_does_not_load_is_reported_also_when_another_version_is_promoted(version_of, config, store):
    registry.promote(store, version_of())
    shutil.rmtree(config.home / "mlruns")
    with pytest.raises(RegistryError, match=r"wine-quality version 1 does not load .*Give the alias champion"):
        registry.load_version(store, registry.champion(store))
    with pytest.raises(RegistryError, match="version 1 does not load"):
        registry.promote(store, version_of())


@pytest.mark.parametrize("status", ["RUNNING", "FAILED", "KILLED"])
def test_a_version_of_an_unfinished_run_is_not_promoted(version_of, store, status):
    version = version_of()
    MlflowClient().update_run(MlflowClient().get_model_version("wine-quality", version).run_id, status)
    with pytest.raises(RegistryError, match=rf"version 1 is not promoted: its run is {status.lower()}, not finished"):
        registry.promote(store, version)
    assert registry.champion(store) is None


def test_a_version_of_another_signature_is_not_promoted(version_of, config, store):
    registry.promote(store, version_of())
    version = register_with_columns(config, ["alcohol"], "float64").version
    with pytest.raises(RegistryError, match="its signature differs from that of the champion, version 1"):
        registry.promote(store, str(version))
    assert alias(store) == "1"


def test_a_version_with_another_gate_set_is_promoted_only_after_a_comparison_on_it(version_of, compared, store, sets):
    registry.promote(store, version_of())
    version = version_of(sets[1].iloc[1:])
    refused = pytest.raises(RegistryError, match="its gate set differs from that of the champion, version 1")
    with refused:
        registry.promote(store, version)
    verdict = compared(sets[1].iloc[1:])
    with refused:
        registry.promote(store, version)
    registry.record_comparison(store, verdict)
    registry.promote(store, version)
    assert alias(store) == version


def test_a_version_registered_in_the_browser_is_promoted_by_what_its_run_logged(version_of, store, sets):
    registry.promote(store, version_of())
    version = version_of(by_browser=True)
    registry.promote(store, version)
    assert alias(store) == version
    origin = registry.lineage(store, registry.champion(store))
    assert (origin["run"], origin["data_source"]) == ("linear", "uci")
    assert origin["scored_on_sha256"] == tracking.checksum(sets[1])
    assert origin["git_commit"] == "unknown"


def test_the_checksum_of_a_table_depends_on_its_rows_but_not_on_their_order(sets):
    gate_set = sets[1]
    assert tracking.checksum(gate_set.iloc[::-1]) == tracking.checksum(gate_set)
    assert tracking.checksum(gate_set.iloc[1:]) != tracking.checksum(gate_set)


def test_a_run_that_is_registered_again_keeps_its_version(store, sets, linear):
    runs = [tracking.log_run(store, "linear", linear, sets, "uci", {}) for _ in range(2)]
    assert [registry.register(store, runs[number], {}) for number in (0, 0, 1)] == ["1", "1", "2"]


@pytest.mark.parametrize("call", ["create_registered_model", "create_model_version", "set_model_version_tag",
                                  "set_registered_model_alias"])  # fmt: skip
def test_a_registration_that_conflicts_with_another_process_is_retried_and_creates_one_version(
    store, version_of, monkeypatch, call
):
    original, errors = getattr(MlflowClient, call), [CLASH, CLASH]

    def fail_at_first(*args, **kwargs):
        if errors:
            raise errors.pop()
        return original(*args, **kwargs)

    monkeypatch.setattr(MlflowClient, call, fail_at_first)
    number = version_of()
    assert aliases(store) == {"challenger": number}
    assert [str(one.version) for one in store.client.search_model_versions()] == [number]
    monkeypatch.setattr(MlflowClient, "set_registered_model_alias", fail_at_first)
    errors[:] = [MlflowException("another one")]
    with pytest.raises(MlflowException, match="another one"):
        version_of()


def test_a_logged_model_loads_from_the_registry_with_all_that_mlflow_shows_and_predicts_the_same(
    version_of, store, sets, linear
):
    registry.promote(store, version_of())
    train, gate_set = sets
    expected = predict(linear, gate_set)
    assert np.array_equal(predict(registry.load_version(store, registry.champion(store)), gate_set), expected)
    loaded = mlflow.pyfunc.load_model("models:/wine-quality@champion")
    assert np.array_equal(loaded.predict(gate_set[FEATURES]), expected)
    assert loaded.input_example[FEATURES].equals(train.head(3)[FEATURES].reset_index(drop=True))
    inputs = loaded.metadata.signature.inputs
    assert inputs.input_names() == FEATURES
    assert {str(kind) for kind in inputs.input_types()} == {"DataType.string", "DataType.double"}
    requirements = mlflow.pyfunc.get_model_dependencies("models:/wine-quality@champion")
    assert "scikit-learn==" in Path(requirements).read_text()


SAVED = ["linear", "decision_tree", "k_neighbors", "random_forest_classifier", "xgboost_tuned", "svr", "kernel_ridge"]


@pytest.mark.parametrize("features", ["measured", "engineered"])
@pytest.mark.parametrize("name", SAVED)
def test_a_saved_model_loads_and_predicts_the_same(name, features, sets, tmp_path):
    train, gate_set = sets
    pipeline = fit(build(name, 1, features), train)
    path = tracking.save_model(pipeline, tmp_path / "models" / "m.skops")
    assert np.array_equal(predict(tracking.load_model(path), gate_set), predict(pipeline, gate_set))
    assert [path.name for path in path.parent.iterdir()] == ["m.skops"]


def test_a_model_file_of_an_untrusted_type_is_refused(tmp_path):
    class Surprise:
        pass

    skops.io.dump(Surprise(), tmp_path / "m.skops")
    with pytest.raises(Exception, match="Surprise"):
        tracking.load_model(tmp_path / "m.skops")


def test_the_dataset_of_a_run_is_logged_once_with_its_context_after_a_conflict_of_two_processes(
    store, sets, monkeypatch
):
    log_inputs, left = MlflowClient.log_inputs, [CLASH, CLASH]

    def fail_at_first(*args, **kwargs):
        if left:
            raise left.pop()
        log_inputs(*args, **kwargs)

    monkeypatch.setattr(MlflowClient, "log_inputs", fail_at_first)
    with tracking.running(store, "a run", {}) as run_id:
        tracking.log_dataset(store, run_id, sets[0], "uci", "training")
        left.append(MlflowException("another one"))
        with pytest.raises(MlflowException, match="another one"):
            tracking.log_dataset(store, run_id, sets[0], "uci", "training")
    (logged,) = mlflow.get_run(run_id).inputs.dataset_inputs
    assert logged.dataset.name == "uci"
    assert {tag.key: tag.value for tag in logged.tags}["mlflow.data.context"] == "training"
    assert f'"num_rows": {len(sets[0])}' in logged.dataset.profile
    assert TARGET in logged.dataset.schema


@pytest.mark.parametrize(
    ("spoil", "line"),
    [
        (Path.mkdir, "unable to open database file. Fix the permissions of the store, or MLFLOW_TRACKING_URI"),
        (
            lambda path: path.write_text("no database"),
            "file is not a database. Move that file away, or fix MLFLOW_TRACKING_URI",
        ),
    ],
)
def test_a_store_that_cannot_be_opened_is_reported_in_one_line(tmp_path, spoil, line):
    spoil(tmp_path / "mlflow.db")
    with pytest.raises(TrackingError) as caught, tracking.store(settings()):
        pass
    assert str(caught.value) == f"MLflow: {line}, and run again."


def test_a_server_that_is_away_is_reported_with_what_to_start(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
    line = r"^MLflow: .*Start that server, or fix MLFLOW_TRACKING_URI"
    with pytest.raises(TrackingError, match=line), tracking.store(settings()):
        pass


@pytest.mark.parametrize(
    ("error", "cause", "line"),
    [
        ("the disk", None, r".*No space left on device\. Free some space, and run again\.$"),
        ("the model could not be serialized", "the disk", r".*No space left on device"),
        ("Detected out-of-date database schema (found version 1, ...)", None, ".*with `mlflow db upgrade`"),
        (str(CLASH), None, r".*at the same moment: run it again\.$"),
    ],
)
def test_an_error_of_the_store_is_reported_with_what_to_do(store, full_disk, error, cause, line):
    raised = full_disk if error == "the disk" else MlflowException(error)
    raised.__cause__ = full_disk if cause else None
    with pytest.raises(TrackingError, match=f"^MLflow: {line}"), tracking.store(settings()):
        raise raised


def test_an_error_of_ours_passes_the_store_as_it_is(store):
    with pytest.raises(RegistryError, match="as it is"), tracking.store(settings()):
        raise RegistryError("as it is")


def test_the_store_is_made_once_and_keeps_its_files_at_home(config):
    first, second = (tracking.open_store(config) for _ in range(2))
    assert first.experiment_id == second.experiment_id
    experiment = first.client.get_experiment_by_name("wine-quality-experiment")
    assert experiment.artifact_location == (config.home / "mlruns").as_uri()
