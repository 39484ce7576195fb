"""A registered version as something that scores wines: an ONNX graph where that gains much, else the pipeline itself.

The sha256 sums of a version's files stand in its tags, and a file of another sum is not opened.
"""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import skl2onnx
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from onnxruntime import InferenceSession, SessionOptions
from skl2onnx.common.data_types import FloatTensorType, StringTensorType
from sklearn.base import is_classifier
from sklearn.ensemble import ExtraTreesClassifier, ExtraTreesRegressor, RandomForestClassifier, RandomForestRegressor
from sklearn.pipeline import Pipeline
from sklearn.tree import DecisionTreeClassifier

from wine_quality import tracking
from wine_quality.config import Settings
from wine_quality.errors import RegistryError
from wine_quality.files import sha256
from wine_quality.models import predict
from wine_quality.registry import MLMODEL, MODEL_SHA256, model_folder
from wine_quality.schema import FEATURES, MEASUREMENTS
from wine_quality.sources import sample
from wine_quality.splits import distinct_rows
from wine_quality.tracking import MODEL_FILE, Store

ONNX_FILE = "model.onnx"  # an artifact of the run behind a version
ONNX_SUM, NO_ONNX = "onnx_sha256", "no_onnx"  # tags of a version: the sum of that file, or why there is none
TREES = (
    DecisionTreeClassifier,
    ExtraTreesClassifier,
    ExtraTreesRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
TOLERANCE = 1e-4  # points of quality by which a graph may differ from its pipeline
DECIMALS = 6  # of a score: the last bits of a sum hang on how many wines are scored at once
ONE_WINE = {"type": np.array(["red"], dtype=object), **{name: np.array([np.nan]) for name in MEASUREMENTS}}

Columns = dict[str, np.ndarray]
Predict = Callable[[Columns], np.ndarray]


@dataclass(frozen=True)
class Scorer:
    """A version that is ready to score. Threads may share it.

    Attributes
    ----------
    version : str
        Its number.
    run_id : str
        The MLflow run behind it.
    engine : str
        `onnx` or `pipeline`.
    why : str
        Why it scores by that engine.
    signature : ModelSignature
        What it takes and gives.
    """

    version: str
    run_id: str
    engine: str
    why: str
    signature: ModelSignature
    predict: Predict = field(repr=False)

    def score(self, columns: Columns) -> np.ndarray:
        """Return the score of each wine, which is the same whether it comes alone or among others.

        Parameters
        ----------
        columns : dict of arrays of shape (n wines,)
            One for each of `FEATURES`: `type` as objects, `red` or `white`; the others as float64, NaN where blank.

        Returns
        -------
        ndarray of shape (n wines,)
            Points of quality, float64, to the sixth decimal.
        """
        return np.round(self.predict(columns), DECIMALS)


def to_onnx(pipeline: Pipeline) -> bytes | None:
    """Return a fitted pipeline as an ONNX graph of twelve inputs, preprocessing inside; None where that gains nothing.

    Notes
    -----
    As seen with the measured columns of 4,221 real wines, on one core: a tree or forest scores one wine as a graph in
    0.02 to 0.1 ms, as a pipeline in 2 to 14 ms; 1,000 wines in 1 to 43 ms and 3 to 63 ms. scikit-learn's trees look at
    float32 too, so that both go the same way at each branch: scores agree to 3e-5, classes are the same.

    Other models stay pipelines. `k_neighbors` is slower as a graph: 4.5 ms against 2.8 for one wine, 54 against 7 for
    1,000. `linear` sums in float32 there, and a score hangs on how many wines come along, in the fifth decimal. The
    rest, and all models with a chemist's columns, have no converter.
    """
    model = pipeline["model"]
    if not isinstance(model, TREES):
        return None
    inputs = [("type", StringTensorType([None, 1])), *((name, FloatTensorType([None, 1])) for name in MEASUREMENTS)]
    options = {id(model): {"zipmap": False}} if is_classifier(model) else None
    try:
        return skl2onnx.to_onnx(pipeline, initial_types=inputs, options=options).SerializeToString()
    except RuntimeError:  # its converters, and the lack of one, end in this
        return None


def log_graph(store: Store, version: str, wines: pd.DataFrame) -> None:
    """Log a version's ONNX graph as an artifact of its run, and its checksum as a tag; or as a tag, why there is none.

    What was done before is not done again: the tag comes last, and without it there is no graph.

    Parameters
    ----------
    store : Store
    version : str
    wines : DataFrame of shape (n wines, 13)
        On which graph and pipeline must agree, as they are and with a blank in each.

    Raises
    ------
    RegistryError
        The version's model is not the one that was registered, or cannot be opened.
    """
    wanted = store.client.get_model_version(store.model_name, version)
    if ONNX_SUM in wanted.tags or NO_ONNX in wanted.tags:
        return
    with tempfile.TemporaryDirectory() as aside:
        pipeline = opened(wanted, model_file(store, wanted, aside), tracking.load_model)
        path = Path(aside) / ONNX_FILE
        refusal = write_graph(pipeline, path, wines)
        if not refusal:
            store.client.log_artifact(wanted.run_id, str(path))
        tag, value = (NO_ONNX, refusal) if refusal else (ONNX_SUM, sha256(path))
        store.client.set_model_version_tag(wanted.name, version, tag, value)


def write_graph(pipeline: Pipeline, path: Path, wines: pd.DataFrame) -> str:
    """Write a pipeline as an ONNX graph, and return why it cannot stand for the pipeline, or an empty text."""
    graph = to_onnx(pipeline)
    if graph is None:
        return "it would gain nothing, or has no converter"
    path.write_bytes(graph)
    rows = pd.concat([wines, with_blanks(wines)])
    differ = np.abs(graph_predict(path)(columns_of(rows)) - predict(pipeline, rows)).max()
    return "" if differ <= TOLERANCE else f"it differs from the pipeline by {differ:.2g}, more than {TOLERANCE:g}"


def with_blanks(wines: pd.DataFrame) -> pd.DataFrame:
    """Return wines with one measurement of each blank, another one from wine to wine."""
    number = np.arange(len(wines))[:, np.newaxis] % len(MEASUREMENTS)
    blank = pd.DataFrame(number == np.arange(len(MEASUREMENTS)), wines.index, list(MEASUREMENTS))
    return wines.assign(**wines[list(MEASUREMENTS)].mask(blank))


def columns_of(wines: pd.DataFrame) -> Columns:
    """Return wines as `Scorer.score` takes them."""
    return {name: wines[name].to_numpy(dtype=object if name == "type" else "float64") for name in FEATURES}


def graph_predict(path: Path) -> Predict:
    """Return what scores by the ONNX graph in a file.

    It has one thread: with two, 1,000 wines take half as long, but the order of a forest's sum hangs on how many wines
    there are, and the score with it. Smaller parts than all wines at once are no faster.
    """
    options = SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = InferenceSession(path, options, providers=["CPUExecutionProvider"])
    first = [session.get_outputs()[0].name]  # of a classifier, the class

    def scores(columns: Columns) -> np.ndarray:
        given = {name: columns[name].astype("float32").reshape(-1, 1) for name in MEASUREMENTS}
        given["type"] = columns["type"].reshape(-1, 1)
        return session.run(first, given)[0].ravel().astype("float64")

    return scores


def pipeline_predict(path: Path) -> Predict:
    """Return what scores by the pipeline in a file."""
    pipeline = tracking.load_model(path)
    return lambda columns: predict(pipeline, pd.DataFrame(columns))


def load_scorer(config: Settings, version: ModelVersion) -> Scorer:
    """Return a version, ready to score: its first prediction, which is the slowest, has been made.

    Raises
    ------
    RegistryError
        It takes other columns; or a file of it is missing, is not the one whose sum was noted, or does not load.
    TrackingError
        The store cannot be read. Trying again may help.
    """
    with tracking.store(config) as store, tempfile.TemporaryDirectory() as aside:
        model = model_file(store, version, aside)
        signature = signature_of(store, version, aside)
        if signature is None or signature.inputs.input_names() != FEATURES:
            raise unusable(version, "it takes other columns than those of wine")
        path, why = best_file(store, version, model, aside)
        engine, load = ("pipeline", pipeline_predict) if path == model else ("onnx", graph_predict)
        scorer = Scorer(str(version.version), version.run_id, engine, why, signature, opened(version, path, load))
        opened(version, path, lambda _: scorer.score(ONE_WINE))
    return scorer


def best_file(store: Store, version: ModelVersion, model: Path, aside: str) -> tuple[Path, str]:
    """Return the file that a version scores by, and why: its ONNX graph where there is one, else its model.

    A version that never went through `log_graph`, because the alias was moved to it by hand, is converted here and
    compared with its pipeline on the sample. That stays in memory: only `log_graph` writes to the store.
    """
    if ONNX_SUM in version.tags:
        return graph_file(store, version, aside), "its ONNX graph was checked when it was promoted"
    if NO_ONNX in version.tags:
        return model, f"no ONNX graph: {version.tags[NO_ONNX]}"
    path, wines = Path(aside) / ONNX_FILE, distinct_rows(sample("to check a graph").table)
    refusal = opened(version, model, lambda file: write_graph(tracking.load_model(file), path, wines))
    if refusal:
        return model, f"no ONNX graph: {refusal}"
    return path, f"converted to ONNX when it was loaded, and checked against its pipeline on {len(wines):,} rows"


def model_file(store: Store, version: ModelVersion, aside: str) -> Path:
    """Copy a version's model file into a folder and return it, checked against its sum."""
    return checked(version, fetched(store, version, model_folder(store, version), MODEL_FILE, aside), MODEL_SHA256)


def graph_file(store: Store, version: ModelVersion, aside: str) -> Path:
    """Copy a version's ONNX graph into a folder and return it, checked against its sum."""
    folder = store.client.get_run(version.run_id).info.artifact_uri
    return checked(version, fetched(store, version, folder, ONNX_FILE, aside), ONNX_SUM)


def signature_of(store: Store, version: ModelVersion, aside: str) -> ModelSignature | None:
    """Return what a version takes and gives."""
    return opened(version, fetched(store, version, model_folder(store, version), MLMODEL, aside), Model.load).signature


def fetched(store: Store, version: ModelVersion, folder: str, name: str, aside: str) -> Path:
    """Copy a file of a version from an address into a folder, and return it."""
    try:
        return store.download(f"{folder}/{name}", aside)
    except (MlflowException, OSError) as error:
        raise unusable(version, f"{name} is missing or out of reach") from error


def checked(version: ModelVersion, path: Path, tag: str) -> Path:
    """Return a file of a version where its sum is the one in the tag."""
    if tag not in version.tags:
        raise unusable(version, f"no sum of {path.name} was noted, it was not registered here")
    if sha256(path) != version.tags[tag]:
        raise unusable(version, f"{path.name} is not the file that was noted (its sha256 sum differs)")
    return path


def opened(version: ModelVersion, path: Path, load: Callable[[Path], Any]) -> Any:
    """Return what a file of a version holds."""
    try:
        return load(path)
    except Exception as error:  # what another release wrote may raise anything
        raise unusable(version, f"{path.name} does not load or score ({type(error).__name__})") from error


def unusable(version: ModelVersion, what: str) -> RegistryError:
    """Return the error of a version that cannot score."""
    return RegistryError(
        f"{version.name} version {version.version} cannot be used: {what}. Give the alias champion to another version, "
        "or train again with `make run`."
    )
