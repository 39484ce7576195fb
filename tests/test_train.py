"""The flow on a few hundred rows, with a real Prefect API, a real MLflow store and real S3 servers."""

import shutil
from datetime import datetime
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient
from prefect.settings import PREFECT_TASKS_REFRESH_CACHE, temporary_settings
from servers import TRAIN, command

from orchestration import policies
from orchestration.bucket import bucket_of_environment
from orchestration.report import Trained
from orchestration.train import prepare_data, publish_model, train_wine_quality
from wine_quality import intervals, registry, retention, sources, splits, storage, tracking
from wine_quality.config import settings
from wine_quality.errors import DataError, LeakError, StorageError
from wine_quality.evaluation import evaluate
from wine_quality.files import sha256
from wine_quality.metrics import scores
from wine_quality.models import build, fit, predict
from wine_quality.schema import TARGET, to_matrix
from wine_quality.scoring import load_scorer
from wine_quality.tuning import Candidate

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_api", "mlflow_at_home")]


@pytest.fixture
def folder(few_wines, tmp_path):
    """A copy of the small dataset, for this test alone."""
    return shutil.copytree(few_wines, tmp_path / "wine")


def nothing_was_made() -> bool:
    home = settings().home
    return not any((home / name).exists() for name in ("mlflow.db", "mlruns", "models", ".local/outbox", ".local/s3"))


def test_a_champion_that_scores_faster_as_a_graph_has_one_and_a_challenger_none(tmp_path, write_uci):
    rows = splits.distinct_rows(sources.sample("a test").table).iloc[::4]  # with fewer, the gate sees no gain
    config = settings(data=str(write_uci(tmp_path / "wine", rows)))
    prepared = prepare_data(config.data, None, None)
    forest = fit(build("extra_trees", 1, n_estimators=20), prepared.train)
    expected = predict(forest, prepared.gate_set)
    held_out = scores(prepared.gate_set[TARGET].to_numpy(), expected)
    interval = intervals.fit_half_width(prepared.train, np.full(len(prepared.train), 5.8), 1)
    leaderboard = pd.DataFrame([held_out], index=["extra_trees"])
    found = evaluate(forest, interval, prepared.gate_set, 1)
    trained = Trained(leaderboard, Candidate("extra_trees", {}), forest, interval, found)
    first, again = (publish_model(prepared, trained, seed, datetime.now().astimezone()) for seed in (1, 2))

    version = registry.champion(tracking.open_store(config))
    assert str(version.version) == first.version
    graphs = [
        "model.onnx" in {file.path for file in MlflowClient().list_artifacts(one.run.run_id)} for one in (first, again)
    ]
    assert graphs == [True, False]
    scorer = load_scorer(config, version)
    assert scorer.engine == "onnx"
    scored = scorer.score_with_interval(to_matrix(prepared.gate_set))
    half_widths = predict(interval, prepared.gate_set)
    assert np.abs(scored - np.column_stack([expected, *intervals.bounds(expected, half_widths)])).max() <= 1e-4
    assert MlflowClient().get_run(version.run_id).data.tags["interval_sha256"] == version.tags["interval_sha256"]


def test_the_same_data_and_seed_give_the_same_model_to_the_last_bit(folder, moto, tmp_path):
    moto.create_bucket(Bucket="wine-quality")
    with temporary_settings({PREFECT_TASKS_REFRESH_CACHE: True}):
        first, second = (mlflow.get_run(train_wine_quality(data=str(folder), max_evals=2)) for _ in range(2))
    assert first.data.metrics == second.data.metrics
    assert first.data.params == second.data.params
    bucket = bucket_of_environment(settings())
    pulled = [storage.pull(bucket, run.info.run_id, tmp_path / run.info.run_id)[0].parent for run in (first, second)]
    assert sha256(pulled[0] / "rows.csv") == sha256(pulled[1] / "rows.csv")
    gate_set = splits.train_gate_split(splits.distinct_rows(wines_of(folder)))[1]
    models = [tracking.load_model(files / "model.skops") for files in pulled]
    assert np.array_equal(*(predict(model, gate_set) for model in models))
    assert registry.champion(tracking.open_store(settings())).run_id == first.info.run_id
    assert "stays a **challenger**" in mlflow.artifacts.load_text(f"runs:/{second.info.run_id}/report.md")


def test_a_second_run_on_unchanged_data_parameters_and_code_registers_and_pushes_nothing(folder, capsys, monkeypatch):
    first = train_wine_quality(data=str(folder), max_evals=1)
    config, before = settings(), everything_published()
    original = mlflow.artifacts.load_text(f"runs:/{first}/report.md")
    capsys.readouterr()

    assert train_wine_quality(data=str(folder), max_evals=1) == first
    assert everything_published() == before
    assert mlflow.artifacts.load_text(f"runs:/{first}/report.md") == original
    printed = capsys.readouterr().out
    for part in ("Nothing new: version 1", "is the champion", "RMSE", "Nothing new was pushed", f"runs/{first}"):
        assert part in printed.replace("\n", " ")

    assert train_wine_quality(data=str(folder), max_evals=1, seed=7) != first
    assert len(everything_published()["versions"]) == 2
    monkeypatch.setattr(policies, "CODE_SHA256", "another release")
    assert train_wine_quality(data=str(folder), max_evals=1) != first
    assert len(everything_published()["versions"]) == 3
    with temporary_settings({PREFECT_TASKS_REFRESH_CACHE: True}):
        train_wine_quality(data=str(folder), max_evals=1)
    assert len(everything_published()["versions"]) == 4, "a fresh run was requested"
    assert list(config.outbox.iterdir()) == []


def test_a_search_with_another_window_is_another_search(folder, monkeypatch):
    for window in ("1", "2"):
        monkeypatch.setenv("WINE_WINDOW", window)
        train_wine_quality(data=str(folder), max_evals=1)
    runs = mlflow.search_runs(search_all_experiments=True, output_format="list")
    assert {run.data.params["window"] for run in runs if "window" in run.data.params} == {"1", "2"}


def everything_published() -> dict[str, list]:
    config = settings()
    bucket = config.local / "s3" / config.bucket
    return {
        "runs": [run.info.run_id for run in mlflow.search_runs(search_all_experiments=True, output_format="list")],
        "versions": [(one.version, one.tags) for one in retention.versions(tracking.open_store(config))],
        "objects": sorted((path, path.stat().st_mtime_ns) for path in bucket.rglob("*") if path.is_file()),
    }


def test_a_bucket_that_is_missing_keeps_the_model_and_its_files_are_pushed_with_those_of_the_next_run(folder, moto):
    with pytest.raises(StorageError, match="there is no such bucket"):
        train_wine_quality(data=str(folder), max_evals=1)
    first = registry.champion(tracking.open_store(settings())).run_id
    assert (settings().outbox / first / "manifest.json").exists()
    assert "Not pushed" in mlflow.artifacts.load_text(f"runs:/{first}/report.md")

    moto.create_bucket(Bucket="wine-quality")
    second = train_wine_quality(data=str(folder), max_evals=1, seed=7)
    pushed = {entry["Key"] for entry in moto.list_objects_v2(Bucket="wine-quality")["Contents"]}
    assert {f"runs/{run}/manifest.json" for run in (first, second)} <= pushed
    assert "1 earlier run(s)" in mlflow.artifacts.load_text(f"runs:/{second}/report.md")


def wines_of(folder: Path) -> pd.DataFrame:
    return sources.load_dataset(settings(data=str(folder))).table


def write_pair(folder: Path, *pair: pd.DataFrame) -> dict[str, Path]:
    files = {"train_file": folder / "train_wine_data.csv", "validation_file": folder / "test_wine_data.csv"}
    for path, table in zip(files.values(), pair, strict=True):
        table.to_csv(path, index=False)
    return files


def test_files_that_share_a_row_or_one_file_alone_are_rejected(folder, tmp_path):
    files = write_pair(tmp_path, *sources.kaggle_pair(wines_of(folder), seed=1))
    line = r"train_wine_data\.csv and .*test_wine_data\.csv: .* rows to score \(9\d\.\d+%\) are also"
    with pytest.raises(LeakError, match=line):
        train_wine_quality(**files)
    own = splits.distinct_rows(wines_of(folder)).dropna().iloc[::-1]  # the last rows are white, the first red
    blank = own.iloc[1:4].assign(pH=np.nan)
    files = write_pair(tmp_path, own.iloc[1:-1], pd.concat([own.iloc[[0, -1]], blank]))
    with pytest.raises(LeakError, match=r"test_wine_data\.csv: 3 rows differ only in blank cells\. Remove them"):
        train_wine_quality(**files)
    with pytest.raises(DataError, match="Pass both train_file and validation_file, or neither"):
        train_wine_quality(train_file=files["train_file"])
    assert nothing_was_made()


def test_files_without_a_common_row_are_used_as_they_are(folder, tmp_path):
    wines = splits.distinct_rows(wines_of(folder))
    run_id = train_wine_quality(**write_pair(tmp_path, wines.iloc[::2], wines.iloc[1::2]), max_evals=1)
    trained_on = mlflow.artifacts.load_text(f"runs:/{run_id}/training_rows.txt").split()
    assert trained_on == splits.row_keys(wines.iloc[::2]).tolist()


def test_a_kaggle_pair_is_split_again_and_its_leak_reported(folder, tmp_path):
    pair = sources.kaggle_pair(wines_of(folder), seed=1)
    (tmp_path / "pair").mkdir()
    write_pair(tmp_path / "pair", *pair)
    run_id = train_wine_quality(data=str(tmp_path / "pair"), max_evals=1)
    report = mlflow.artifacts.load_text(f"runs:/{run_id}/report.md")
    share = splits.leaked_fraction(*pair)
    assert f"{share:.2%} of the given validation set is also in its training set" in report


@pytest.mark.parametrize(("name", "value"), [("max_evals", 0), ("seed", -1), ("max_evals", "many")])
def test_a_parameter_out_of_range_is_rejected_before_anything_runs(name, value, folder):
    with pytest.raises(Exception, match=name):
        train_wine_quality(data=str(folder), **{name: value})
    assert nothing_was_made()


def test_the_form_of_the_ui_describes_each_parameter():
    properties = train_wine_quality.parameters.properties
    assert set(properties) == {"data", "train_file", "validation_file", "max_evals", "seed"}
    assert all(described["description"] for described in properties.values())


@pytest.mark.parametrize("words", [TRAIN, ("orchestration.up",)])
@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        ("WINE_SEED", "often", "WINE_SEED='often': Input should be a valid integer"),
        ("WINE_HOME", "/dev/null/home", "/dev/null/home/.local"),
    ],
)
def test_a_bad_setting_ends_a_command_with_one_line(words, name, value, line):
    done = command(*words, **{name: value})
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"error: {line}")
    assert done.stderr.count("\n") == 1


def test_bad_data_ends_the_command_with_one_line_and_leaves_nothing(folder):
    path = folder / "winequality-red.csv"
    lines = path.read_text().splitlines()
    lines[3] = lines[3].replace(";", ";abc", 1)
    path.write_text("\n".join(lines))
    done = command(*TRAIN, WINE_DATA=str(folder))
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert done.stderr.startswith(f"error: {path}: ")
    assert "row 4" in done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["bucket"]
    assert nothing_was_made()
