"""Versions of the model in a test's store: real runs of few wines, registered."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlparse

import mlflow
import numpy as np
import pandas as pd
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.models import infer_signature

from wine_quality import registry, scoring, sources, tracking
from wine_quality.config import Settings
from wine_quality.intervals import fit_half_width
from wine_quality.models import build, fit
from wine_quality.schema import FEATURES
from wine_quality.splits import distinct_rows, train_gate_split
from wine_quality.tracking import ROWS_FILE, Store, Tracked


def few_sides() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return some 200 wines of the sample to train on, and the gate set beside them."""
    return train_gate_split(distinct_rows(sources.sample("a test").table).iloc[::21].reset_index(drop=True))


def register_model(
    config: Settings, name: str, features: str = "measured", source: str = "uci", intervals: bool = False,
    **params: object,
) -> ModelVersion:  # fmt: skip
    """Fit a model by its name, register it with its rows, make its graph, and return the version."""
    train, gate_set = few_sides()
    pipeline = fit(build(name, 1, features, **params), train)
    with project_store(config) as store:
        interval = fit_half_width(train, np.full(len(train), 6.0), 1) if intervals else None
        run = tracking.log_run(store, name, pipeline, (train, gate_set), source, {}, interval=interval)
        store.client.log_text(run.run_id, pd.concat([train, gate_set]).to_csv(index=False), ROWS_FILE)
        number = registry.register(store, run, {})
        scoring.log_graph(store, number, gate_set)
    return version(config, number)


def register_with_columns(config: Settings, columns: list[str], scores: str) -> ModelVersion:
    """Register a linear model of some columns whose scores are signed as numbers of the type given."""
    train, _ = few_sides()
    pipeline = fit(build("linear", 1), train)
    if columns != FEATURES:
        pipeline = pipeline["model"].fit(train[columns], train["quality"])
    predicted = pipeline.predict(train[columns]).astype(scores)
    with project_store(config) as store:
        with mlflow.start_run(experiment_id=store.experiment_id) as run:
            logged = mlflow.sklearn.log_model(
                pipeline,
                name="model",
                signature=infer_signature(train[columns], predicted),
                pip_requirements=["scikit-learn"],
                skops_trusted_types=tracking.TRUSTED_TYPES,
            )
        number = registry.register(store, Tracked(run.info.run_id, store.experiment_id, logged.model_id), {})
    return version(config, number)


@contextmanager
def project_store(config: Settings) -> Iterator[Store]:
    """Open the project's store, and let MLflow's own functions in the test look into the same."""
    mlflow.set_tracking_uri(config.mlflow_uri)
    with tracking.store(config) as store:
        yield store


def version(config: Settings, number: str) -> ModelVersion:
    """Return a version as it is now."""
    return MlflowClient().get_model_version(config.registered_model, number)


def crown(one: ModelVersion) -> None:
    """Give a version the alias `champion`, whatever it is."""
    MlflowClient().set_registered_model_alias(one.name, registry.CHAMPION, str(one.version))


def model_path(one: ModelVersion) -> Path:
    """Return where the model file of a version lies."""
    source = MlflowClient().get_model_version_download_uri(one.name, str(one.version))
    return Path(urlparse(source).path) / tracking.MODEL_FILE


def graph_path(one: ModelVersion) -> Path:
    """Return where the ONNX graph of a version lies."""
    return artifacts(one) / scoring.ONNX_FILE


def artifacts(one: ModelVersion) -> Path:
    """Return the folder with the artifacts of the run behind a version."""
    run = MlflowClient().get_run(str(one.run_id))
    return Path(urlparse(str(run.info.artifact_uri)).path)


def tamper(path: Path) -> None:
    """Change one bit in the midst of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
