"""The flow from Parquet parts to a registered version, on a real Prefect API, MLflow store and S3 server."""

import json
import os
import shutil
import signal
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import psutil
import pytest
from faults import largest_file
from servers import command, running

from orchestration import train
from scaling import train_at_scale as at_scale
from scaling.make_rows import write_rows
from wine_quality import chunked, external_memory, registry, sources, splits, tracking
from wine_quality.config import settings
from wine_quality.engines import InProcess
from wine_quality.errors import DataError, LeakError, SettingsError, StorageUnavailable
from wine_quality.models import build, fit, predict
from wine_quality.parts import list_parts
from wine_quality.ports import free_port
from wine_quality.processes import wait_until
from wine_quality.schema import to_matrix
from wine_quality.scoring import load_scorer
from wine_quality.tracking import ROWS_FILE, TRAINED_ON

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_api", "mlflow_at_home")]
MANY = 130_000  # rows: the training set is too large to be its own sample


@pytest.fixture(scope="module")
def many(tmp_path_factory) -> Path:
    """A dataset of many synthetic rows, read-only because the tests share it."""
    folder = tmp_path_factory.mktemp("many") / "rows"
    write_rows(sources.sample("a test").table, MANY, folder, seed=1)
    return folder


@pytest.fixture
def few(few_wines, tmp_path) -> Path:
    """A few rows in three parts."""
    table = sources.load_dataset(settings(data=str(few_wines))).table
    (tmp_path / "few").mkdir()
    for number in range(3):
        table.iloc[number::3].to_parquet(tmp_path / "few" / f"part-{number}.parquet", index=False)
    return tmp_path / "few"


@pytest.fixture
def little_memory(monkeypatch) -> None:
    """So little memory that many rows are read from disk."""
    monkeypatch.setenv("WINE_MEMORY", "800MB")


def versions() -> list:
    with tracking.store(settings()) as store:
        return store.client.search_model_versions(f"name = '{store.model_name}'")


def nothing_was_written() -> bool:
    home = settings().home
    return not any((home / name).exists() for name in ("mlflow.db", "models", ".local/outbox", ".local/at-scale/rows"))


def test_training_on_many_rows_registers_a_working_version_and_logs_only_samples_to_mlflow(many, little_memory):
    run_id = at_scale.train_at_scale(data=str(many))
    store = tracking.open_store(settings())
    version, run = registry.champion(store), mlflow.get_run(run_id)
    assert version.run_id == run_id
    assert run.data.tags[external_memory.MODE].startswith("external memory: ")
    assert run.data.tags["data_source"] == "sample", "a model of synthetic rows must not replace a real one"
    assert run.data.tags["resumed_after_round"] == "0"
    assert {"held_out_rmse", "gate_rmse", "gate_coverage"} <= run.data.metrics.keys()

    table = pd.concat(pd.read_parquet(path) for path in sorted(many.iterdir()))
    keyed = table.set_index(splits.row_keys(table))
    learnt, gate_set = splits.train_gate_split(keyed.loc[~keyed.index.duplicated()])  # a few have a twin besides
    counts = registry.row_counts(run)
    assert len(learnt) - 50 < counts["training"] <= len(learnt)
    assert at_scale.SAMPLE - 10 < counts["evaluation"] <= at_scale.SAMPLE
    assert f"{counts['training']:,} rows for training" in version.description
    manifest = json.loads(mlflow.artifacts.load_text(f"runs:/{run_id}/parts.json"))
    assert (manifest["rows"], [Path(one["part"]).name for one in manifest["parts"]]) == (MANY, ["part-00000.parquet"])
    assert len(mlflow.artifacts.load_text(f"runs:/{run_id}/{ROWS_FILE}").splitlines()) <= 2 * at_scale.SAMPLE + 1

    scorer = load_scorer(settings(), version)
    some = gate_set.head(1000)
    assert np.abs(scorer.score(to_matrix(some)) - some["quality"]).mean() < 0.6
    assert not list((settings().local).glob("at-scale/*"))

    logged = mlflow.artifacts.load_text(f"runs:/{run_id}/{TRAINED_ON}").split()
    assert set(logged) < set(learnt.index)
    never_logged = learnt.drop(logged)
    reason = registry.unfairness_reason(store, version, pd.concat([never_logged.head(7), gate_set]), "sample")
    assert reason == f"the champion was trained on 7 of the {len(gate_set) + 7} rows of the gate set"
    assert registry.unfairness_reason(store, version, gate_set, "sample") == ""


def test_few_rows_are_trained_in_memory_as_by_make_run(few, few_wines):
    run_id = at_scale.train_at_scale(data=str(few), seed=3)
    run = mlflow.get_run(run_id)
    dataset = sources.load_dataset(settings(data=str(few_wines)))
    learnt, gate_set = splits.train_gate_split(splits.distinct_rows(dataset.table))
    assert run.data.tags[external_memory.MODE].startswith("in memory: ")
    assert run.data.tags[tracking.SCORED_ON] == tracking.checksum(gate_set)
    assert set(mlflow.artifacts.load_text(f"runs:/{run_id}/{TRAINED_ON}").split()) == set(learnt.index)
    assert "cv_rmse" in run.data.metrics
    with tracking.store(settings()) as store:
        registered = registry.load_version(store, versions()[0])
    prepared = at_scale.sample.fn(rows_of(few), str(few))
    assert np.array_equal(
        predict(registered, gate_set), predict(fit(build("xgboost_tuned", 3), prepared.train), gate_set)
    )

    assert at_scale.train_at_scale(data=str(few), seed=3) == run_id, "nothing new"
    assert len(versions()) == 1
    champion_of_make_run = train.train_wine_quality(data=str(few_wines), max_evals=1)
    assert champion_of_make_run != run_id
    assert [version.tags[registry.GATE_SET] for version in versions()] == [tracking.checksum(gate_set)] * 2


def test_gate_rows_that_the_training_would_read_end_the_run(few):
    rows = rows_of(few)
    rows.roles[np.flatnonzero(rows.roles & chunked.ROLE == chunked.GATE)[:3]] = chunked.TRAIN
    with pytest.raises(LeakError, match=r"few: 3 of \d+ gate rows are in the training set"):
        at_scale.sample.fn(rows, str(few))


def rows_of(folder: Path):
    keys = settings().local / "keys"
    keys.mkdir(parents=True)
    return chunked.split_parts(list_parts(str(folder)), keys, InProcess(), sample=at_scale.SAMPLE)


@pytest.mark.parametrize("name", ["extra_trees_engineered", "kernel_ridge_engineered", "blend"])
def test_a_model_that_needs_all_rows_in_memory_is_refused_if_they_do_not_fit(name):
    with pytest.raises(SettingsError) as caught:
        at_scale.choose_mode(name, 100_000, 2_000_000_000)
    assert str(caught.value).startswith(f"{name} holds all rows in memory: 100,000 rows need about ")
    assert "WINE_MEMORY is 2.00 GB. Choose xgboost or xgboost_tuned" in str(caught.value)
    assert at_scale.choose_mode(name, 4_000, 2_000_000_000)[0] == "in memory"


def test_the_same_rows_in_another_training_mode_give_another_version(many, monkeypatch):
    in_memory = at_scale.train_at_scale(data=str(many))
    monkeypatch.setenv("WINE_MEMORY", "800MB")
    from_disk = at_scale.train_at_scale(data=str(many))
    modes = [mlflow.get_run(one).data.tags[external_memory.MODE].split(":")[0] for one in (in_memory, from_disk)]
    assert modes == ["in memory", "external memory"]
    assert len(versions()) == 2


def test_the_training_mode_follows_from_the_rows_and_the_memory():
    modes = [at_scale.choose_mode("xgboost_tuned", rows, 2_000_000_000)[0] for rows in (10**6, 10**7)]
    assert modes == ["in memory", "external memory"]
    with pytest.raises(
        SettingsError, match=r"0\.79 GB in memory, and WINE_MEMORY is 0\.75 GB\. Raise WINE_MEMORY: up to 1"
    ):
        at_scale.choose_mode("xgboost_tuned", 100_000, 750_000_000)
    with pytest.raises(SettingsError, match=r"external memory needs about 50\.70 GB\. Raise WINE_MEMORY"):
        at_scale.choose_mode("xgboost_tuned", 10**9, 6_000_000_000)


def test_bad_input_gives_a_one_line_error_before_anything_is_written(few, set_aws, monkeypatch):
    with pytest.raises(SettingsError, match=r"model='xgbost': no such model\. Choose one of mean, linear"):
        at_scale.train_at_scale(data=str(few), model="xgbost")
    table = pd.read_parquet(few / "part-1.parquet")
    table.assign(pH=table["pH"].where(table.index > 0, 99)).to_parquet(few / "part-1.parquet")
    with pytest.raises(DataError, match=r"part-1\.parquet: 1 problem: row 1, pH: 99\.0 is not 2 to 5 pH"):
        at_scale.train_at_scale(data=str(few))
    set_aws(f"http://127.0.0.1:{free_port()}")
    with pytest.raises(StorageUnavailable, match="bucket away: connection refused"):
        at_scale.train_at_scale(data="s3://away/rows")
    assert nothing_was_written()


def test_parts_in_a_bucket_are_trained_on(few, rclone):
    shutil.copytree(few, rclone / "wine-quality" / "few")
    run_id = at_scale.train_at_scale(data="s3://wine-quality/few")
    assert mlflow.get_run(run_id).data.tags["data"] == "3 Parquet part(s) in s3://wine-quality/few"


def test_a_full_disk_while_caching_gives_a_one_line_error_and_leaves_nothing(many, little_memory):
    with largest_file(1_000_000), pytest.raises(DataError, match=r"at-scale/rows: cannot be used \(.*\)\. Free some"):
        at_scale.train_at_scale(data=str(many))
    assert nothing_was_written()
    assert not list((settings().local / "at-scale").iterdir())


def test_a_flow_killed_during_training_resumes_from_the_checkpoint_on_the_next_run(
    many, tmp_path, prefect_for_commands
):
    words = ("orchestration.run", "scaling.train_at_scale:train_at_scale")
    environment = {"WINE_DATA": str(many), "WINE_MEMORY": "800MB"}
    work = settings().local / "at-scale"
    with running(["-m", *words], tmp_path / "log", **environment) as process:
        wait_until(lambda: list(work.glob(f"model-*/{external_memory.MODEL}")), "a checkpoint", 120)
        started = psutil.Process(process.pid).children(recursive=True)
        os.kill(process.pid, signal.SIGKILL)
        _, alive = psutil.wait_procs(started, timeout=20)
    assert not alive
    assert not (settings().home / "mlflow.db").exists()

    done = command(*words, **environment)
    assert done.returncode == 0, done.stderr
    assert "resumes from the checkpoint of round" in done.stderr + done.stdout
    assert [version.version for version in versions()] in ([1], ["1"])
    resumed = int(mlflow.get_run(versions()[0].run_id).data.tags["resumed_after_round"])
    assert resumed % external_memory.CHECKPOINT == 0 < resumed
    assert not work.exists()
