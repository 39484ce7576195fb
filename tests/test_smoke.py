"""The main path once, for `make test`: a run on few rows by a real Prefect, and a champion that is served."""

import json

import mlflow
import numpy as np
import pandas as pd
import pytest
import requests
from mlflow import MlflowClient
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.client.schemas.sorting import ArtifactSort
from served import SAMPLE, service, two_versions

from orchestration.train import train_wine_quality
from wine_quality import registry, sources, splits, storage, tracking
from wine_quality.config import settings
from wine_quality.models import predict
from wine_quality.scoring import load_scorer


@pytest.mark.usefixtures("prefect_api", "mlflow_at_home")
def test_a_run_on_a_laptop_goes_from_the_wine_to_the_bucket(few_wines, capsys):
    run_id = train_wine_quality(data=str(few_wines), max_evals=2)
    config = settings()
    table = sources.load_dataset(settings(data=str(few_wines))).table

    run = mlflow.get_run(run_id)
    assert run.data.params["seed"] == "42"
    assert {"cv_rmse", "cv_r2", "gate_rmse", "gate_mae", "gate_qwk"} <= set(run.data.metrics)
    assert run.data.tags["data_source"] == "folder"
    assert run.data.tags["data"] == f"the files in {few_wines}"
    assert run.data.tags["data_sha256"] == sources.table_checksum(table)
    assert len(run.data.tags["git_commit"]) >= 7
    assert [d.tags[0].value for d in run.inputs.dataset_inputs] == ["training", "evaluation"]
    files = {file.path for file in MlflowClient().list_artifacts(run_id)}
    tables = {"training_rows.txt", "rows.csv", "slices.csv", "importance.csv", "interval.skops"}
    figures = {"predicted_against_actual.png", "importance.png", "partial_dependence.png"}
    assert files == {"report.md", "model-card.md", *tables, *figures}

    store = tracking.open_store(config)
    version = registry.champion(store)
    assert version.run_id == run_id
    assert version.tags["data_source"] == "folder"
    assert load_scorer(config, version).engine == "pipeline"

    bucket = config.local / "s3" / "wine-quality" / "runs" / run_id
    sums = json.loads((bucket / "manifest.json").read_text())["files"]
    assert set(sums) == {"model.skops", "interval.skops", "rows.csv", "report.md", "model-card.md"}
    assert {name: storage.sha256(bucket / name) for name in sums} == sums
    assert version.tags["model_sha256"] == sums["model.skops"]
    assert version.tags["interval_sha256"] == sums["interval.skops"]
    card = (bucket / "model-card.md").read_text()
    assert version.description.startswith(card)
    for part in (
        "# wine-quality, version 1",
        "| quality 5 or 6 |",
        "Shuffling a feature raises",
        "**Promoted**",
        run.info.run_name,
    ):
        assert part in card
    assert len(card) < 4000, "MLflow's databases hold 5,000 characters of a description, and notes follow"
    train, gate_set = splits.train_gate_split(pd.read_csv(bucket / "rows.csv"))
    assert np.array_equal(
        predict(tracking.load_model(bucket / "model.skops"), gate_set),
        predict(registry.load_version(store, version), gate_set),
    )
    trained_on = mlflow.artifacts.load_text(f"runs:/{run_id}/training_rows.txt").split()
    assert set(trained_on) == set(splits.row_keys(train))
    assert not set(trained_on) & set(splits.row_keys(gate_set))

    report = mlflow.artifacts.load_text(f"runs:/{run_id}/report.md")
    expected = (
        str(few_wines),
        "5 are duplicates",
        "extra_trees",
        "champion",
        f"runs/{run_id}/",
        "make up",
        "http://127",
    )
    assert not [part for part in expected if part not in report]
    assert "Wine quality: training report" in capsys.readouterr().out
    reports = ArtifactFilter(key=ArtifactFilterKey(any_=["training-report"]))
    with get_client(sync_client=True) as client:
        artifact, *_ = client.read_artifacts(artifact_filter=reports, sort=ArtifactSort.CREATED_DESC)
    assert artifact.data == report


def test_one_wine_is_answered_with_its_score_and_the_version(tmp_path_factory, few_wines):
    with two_versions(tmp_path_factory.mktemp("served"), few_wines) as config, service(config) as url:
        answer = requests.post(f"{url}/predict", json=SAMPLE, timeout=30).json()
        store = tracking.open_store(config)
        expected = predict(registry.load_version(store, registry.champion(store)), pd.DataFrame([SAMPLE]))[0]
    assert answer.keys() == {"score", "low", "high", "quality", "id", "version", "stored"}
    assert answer["score"] == pytest.approx(expected, abs=1e-5)
    assert (answer["quality"], answer["version"], answer["stored"]) == (round(answer["score"]), "1", True)
