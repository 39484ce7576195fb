"""Score rows with a registered version: with an ONNX graph if that is much faster, otherwise with the pipeline itself.

A version's tags hold the SHA-256 checksums of its files. A file with another checksum is never opened.
"""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from onnxruntime import InferenceSession, SessionOptions  # pyright: ignore[reportAttributeAccessIssue]
from sklearn.pipeline import Pipeline

from wine_quality import tracking
from wine_quality.config import Settings
from wine_quality.errors import RegistryError
from wine_quality.files import sha256
from wine_quality.graph import ROWS, SCORES, to_onnx
from wine_quality.intervals import bounds
from wine_quality.models import predict
from wine_quality.registry import INTERVAL_SHA256, MLMODEL, MODEL_SHA256, model_folder
from wine_quality.schema import FEATURES, MEASUREMENTS, from_matrix, to_matrix
from wine_quality.sources import sample
from wine_quality.splits import distinct_rows
from wine_quality.tracking import INTERVAL_FILE, MODEL_FILE, Store

ONNX_FILE = "model.onnx"  # an artifact of the run behind a version
ONNX_SUM, NO_ONNX = "onnx_sha256", "no_onnx"  # tags of a version: the checksum of that file, or why there is none
TOLERANCE = 1e-4  # points of quality by which a graph may differ from its pipeline
DECIMALS = 6  # of a score, because the last bits depend on how many rows are scored at once
PART = 500  # rows scored at once: a kernel matrix has this many rows, and a column for each training row
BLANK_ROW = np.array([[1.0, *[np.nan] * len(MEASUREMENTS)]])

Predict = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Scorer:
    """A version that is ready to score; `why` gives the reason for its engine. Threads may share it.

    `predict` maps a matrix of rows to a matrix with the scores and, if the version has intervals, their half widths.
    """

    version: str
    run_id: str
    engine: Literal["onnx", "pipeline"]
    why: str
    signature: ModelSignature
    predict: Predict = field(repr=False)

    def score(self, rows: np.ndarray) -> np.ndarray:
        """Return the score of each row, float64 of shape (n rows,), as `score_with_interval` does."""
        return self.score_with_interval(rows)[:, 0]

    def score_with_interval(self, rows: np.ndarray) -> np.ndarray:
        """Return the score and the lower and upper end of the interval of each row, float64 of shape (n rows, 3).

        They are points of quality, rounded to six decimals; the ends are NaN if the version has no intervals. `rows` is
        a matrix as returned by `schema.to_matrix`. The result for a row doesn't depend on the others.
        """
        parts = [self.predict(rows[start : start + PART]) for start in range(0, len(rows), PART)]
        predicted = np.concatenate(parts) if parts else np.empty((0, 1))
        scores = predicted[:, 0]
        half_widths = predicted[:, 1] if predicted.shape[1] == 2 else np.full(len(scores), np.nan)
        return np.round(np.column_stack([scores, *bounds(scores, half_widths)]), DECIMALS)


def log_graph(store: Store, version: str, rows: pd.DataFrame) -> None:
    """Log a version's ONNX graph as an artifact of its run and its checksum as a tag, or the reason that it has none.

    Graph and pipeline must agree on `rows`, both unchanged and with one blank in each. The tag is set last, and only
    once. Raise `RegistryError` if the version's model isn't the registered file, or can't be loaded.
    """
    target = store.client.get_model_version(store.model_name, version)
    if ONNX_SUM in target.tags or NO_ONNX in target.tags:
        return
    with tempfile.TemporaryDirectory() as aside:
        pipelines = [load_file(target, path, tracking.load_model) for path in model_files(store, target, aside)]
        path = Path(aside) / ONNX_FILE
        rejection = write_graph(pipelines, path, rows)
        if not rejection:
            store.client.log_artifact(target.run_id, str(path))
        tag, value = (NO_ONNX, rejection) if rejection else (ONNX_SUM, sha256(path))
        store.client.set_model_version_tag(target.name, version, tag, value)


def write_graph(pipelines: list[Pipeline], path: Path, rows: pd.DataFrame) -> str:
    """Write pipelines as an ONNX graph; return why the graph can't replace them, or an empty string."""
    graph = to_onnx(*pipelines)
    if graph is None:
        return "it would be no faster, or there is no converter"
    path.write_bytes(graph)
    rows = pd.concat([rows, with_blanks(rows)])
    expected = np.column_stack([predict(pipeline, rows) for pipeline in pipelines])
    differ = np.abs(graph_predict([path])(to_matrix(rows)) - expected).max()
    return "" if differ <= TOLERANCE else f"it differs from the pipeline by {differ:.2g}, more than {TOLERANCE:g}"


def with_blanks(rows: pd.DataFrame) -> pd.DataFrame:
    """Return rows with one measurement of each blanked, a different one from row to row."""
    number = np.arange(len(rows))[:, np.newaxis] % len(MEASUREMENTS)
    blank = number == np.arange(len(MEASUREMENTS))
    return rows.assign(**rows[list(MEASUREMENTS)].mask(blank))


def graph_predict(paths: list[Path]) -> Predict:
    """Return a function that scores with the ONNX graph in a file.

    It uses one thread. With two, 1,000 rows take half as long, but the order in which a forest's trees are summed,
    and so the score, depends on the number of rows. Splitting the rows into smaller parts is no faster.
    """
    options = SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = InferenceSession(paths[0], options, providers=["CPUExecutionProvider"])
    return lambda rows: np.asarray(session.run([SCORES], {ROWS: rows})[0])


def pipeline_predict(paths: list[Path]) -> Predict:
    """Return a function that scores with the pipelines in some files."""
    pipelines = [tracking.load_model(path) for path in paths]
    return lambda rows: np.column_stack([predict(pipeline, from_matrix(rows)) for pipeline in pipelines])


def load_scorer(config: Settings, version: ModelVersion) -> Scorer:
    """Return a version that is ready to score: it has made its first prediction, which is the slowest.

    Raise `RegistryError` if its input columns aren't those of the schema, or if one of its files is missing, has
    another checksum or can't be loaded; raise `TrackingError` if the store can't be read (retry).
    """
    with tracking.store(config) as store, tempfile.TemporaryDirectory() as aside:
        models = model_files(store, version, aside)
        described = fetch_file(store, version, model_folder(store, version), MLMODEL, aside)
        signature = load_file(version, described, Model.load).signature
        if signature is None or signature.inputs.input_names() != FEATURES:
            raise scoring_error(version, "its input columns aren't those of the schema")
        paths, why = best_files(store, version, models, aside)
        engine, load = ("pipeline", pipeline_predict) if paths == models else ("onnx", graph_predict)
        predict = load_file(version, paths[0], lambda _: load(paths))
        scorer = Scorer(str(version.version), str(version.run_id), engine, why, signature, predict)
        load_file(version, paths[0], lambda _: scorer.score(BLANK_ROW))
    return scorer


def best_files(store: Store, version: ModelVersion, models: list[Path], aside: str) -> tuple[list[Path], str]:
    """Return the files that a version scores with, and why: its ONNX graph if there is one, otherwise its pipelines.

    A version to which someone moved the alias by hand never went through `log_graph`. It is converted here, and
    compared with its pipeline on the sample. Only `log_graph` writes to the store.
    """
    if ONNX_SUM in version.tags:
        folder = str(store.run_of(version).info.artifact_uri)
        path = verify_sum(version, fetch_file(store, version, folder, ONNX_FILE, aside), ONNX_SUM)
        return [path], "its ONNX graph was verified at promotion"
    if NO_ONNX in version.tags:
        return models, f"no ONNX graph: {version.tags[NO_ONNX]}"
    path, rows = Path(aside) / ONNX_FILE, distinct_rows(sample("to check a graph").table)
    rejection = load_file(version, models[0], lambda _: write_graph([*map(tracking.load_model, models)], path, rows))
    if rejection:
        return models, f"no ONNX graph: {rejection}"
    return [path], f"converted to ONNX at load time, and verified against its pipeline on {len(rows):,} rows"


def model_files(store: Store, version: ModelVersion, aside: str) -> list[Path]:
    """Fetch a version's model and, if any, its interval model into a folder, verify and return their paths."""
    path = fetch_file(store, version, model_folder(store, version), MODEL_FILE, aside)
    files = [verify_sum(version, path, MODEL_SHA256)]
    if INTERVAL_SHA256 in version.tags:
        folder = str(store.run_of(version).info.artifact_uri)
        path = fetch_file(store, version, folder, INTERVAL_FILE, aside)
        files.append(verify_sum(version, path, INTERVAL_SHA256))
    return files


def fetch_file(store: Store, version: ModelVersion, folder: str, name: str, aside: str) -> Path:
    """Download a file of a version into a folder, and return its path."""
    try:
        return store.download(f"{folder}/{name}", aside)
    except (MlflowException, OSError) as error:
        raise scoring_error(version, f"{name} is missing or unreachable") from error


def verify_sum(version: ModelVersion, path: Path, tag: str) -> Path:
    """Return the path of a file if its checksum equals the one in the tag."""
    if tag not in version.tags:
        raise scoring_error(version, f"no checksum of {path.name} is recorded, so `make run` didn't register it")
    if sha256(path) != version.tags[tag]:
        raise scoring_error(version, f"{path.name} isn't the registered file (its SHA-256 checksum differs)")
    return path


def load_file(version: ModelVersion, path: Path, load: Callable[[Path], Any]) -> Any:
    """Return what `load` reads from a file of a version."""
    try:
        return load(path)
    except Exception as error:  # a file of another release may raise anything
        raise scoring_error(version, f"{path.name} can't be loaded or used ({type(error).__name__})") from error


def scoring_error(version: ModelVersion, what: str) -> RegistryError:
    """Return the error for a version that can't score."""
    return RegistryError(
        f"{version.name} version {version.version} cannot be used: {what}. Move the alias champion to another version, "
        "or train again with `make run`."
    )
