"""The tracking store: MLflow runs with their parameters, metrics, datasets and models."""

import getpass
import hashlib
import json
import logging
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from textwrap import shorten
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

import pandas as pd
from mlflow import MlflowClient, sklearn
from mlflow.artifacts import download_artifacts
from mlflow.data.pandas_dataset import from_pandas
from mlflow.entities import Dataset, DatasetInput, InputTag, LoggedModelOutput, Metric, Param, Run
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import Model, infer_signature
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT, MLFLOW_SOURCE_NAME, MLFLOW_SOURCE_TYPE, MLFLOW_USER
from sklearn.pipeline import Pipeline
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError
from tenacity import retry, retry_if_exception, stop_after_attempt, wait_random_exponential

from wine_quality.command import exit_code
from wine_quality.config import ROOT, Settings, settings
from wine_quality.engines import XGBOOST
from wine_quality.errors import TrackingError
from wine_quality.evaluation import MANY_ROWS, Evaluation, importance_figure
from wine_quality.files import atomic_write, exclusive_lock, sha256
from wine_quality.metrics import scores
from wine_quality.models import predict
from wine_quality.plots import predicted_against_actual
from wine_quality.schema import FEATURES, TARGET
from wine_quality.slices import ALL
from wine_quality.splits import row_keys

TRUSTED_TYPES = [
    "numpy.dtype",
    "sklearn.utils._bunch.Bunch",
    "sklearn.metrics._dist_metrics.EuclideanDistance64",
    "sklearn.neighbors._kd_tree.KDTree",
    "sklearn.tree._tree.Tree",
    "wine_quality.chemistry.with_chemistry",
    "wine_quality.kernel_ridge.ExponentialKernelRidge",
    "xgboost.core.Booster",
    "xgboost.sklearn.XGBRegressor",
]
SHOWN = 300  # characters of an MLflow error that are printed, because it may quote a whole query
OUTAGE = (MlflowException, SQLAlchemyError)
SOURCE, SCORED_ON = "data_source", "scored_on_sha256"  # tags of each run
TRAINED_ON = "training_rows.txt"  # an artifact of each run: the keys of its training rows
FIGURE = "predicted_against_actual.png"  # another artifact
SLICES, IMPORTANCE = "slices.csv", "importance.csv"  # two more, if the model was evaluated
BY_HASH = "trained_on_all_but_gate_set"  # the tag of a run that was trained on more rows than it logs
PARTS = "parts.json"  # an artifact of such a run: the parts of its dataset
ROWS_FILE = "rows.csv"  # an artifact with the rows of both sets, which the flow logs
MODEL_FILE = "model.skops"  # the name that MLflow gives it
INTERVAL_FILE, INTERVAL_SUM = "interval.skops", "interval_sha256"  # an artifact of a run, and the tag with its checksum
REQUIRED = ["pandas", "scikit-learn", "skops"]
# the modules of this package that a model file refers to; they import no other module of it
OWN_CODE = ["chemistry.py", "kernel_ridge.py"]
CONFLICT = (
    "UNIQUE constraint failed|duplicate key value|(table|relation) .* already exists|duplicate column name"
    "|RESOURCE_ALREADY_EXISTS|Experiment.* already exists|out-of-date database schema|too many 500 error responses"
)
RUN_AGAIN = "Run it again; if it fails again, check the store that MLFLOW_TRACKING_URI names."
ADVICE = {  # by a pattern in the error message; the first match counts
    "no space left|disk is full|file too large|quota|disk i/o": "Free some space, and run again.",
    "unable to open database|readonly database|permission denied|read-only file|is a directory": (
        "Fix the permissions of the store, or MLFLOW_TRACKING_URI, and run again."
    ),
    "not a database|malformed": "Move that file away, or fix MLFLOW_TRACKING_URI, and run again.",
    "database is locked": "Another program has locked it: stop that program or wait, and run again.",
    "out-of-date database schema": (
        "Another release of MLflow created it: upgrade it with `mlflow db upgrade`, or set MLFLOW_TRACKING_URI to "
        "another store."
    ),
    CONFLICT: "Another process wrote the same record at the same moment: run it again.",
    "failed with exception|max retries|connection|timed out": (
        "Start that server, or fix MLFLOW_TRACKING_URI, and run again."
    ),
}


@dataclass(frozen=True)
class Tracked:
    """The ids of a run, its experiment and its logged model in MLflow."""

    run_id: str
    experiment_id: str
    model_id: str


@dataclass(frozen=True)
class Whole:
    """A dataset that is too large to log, so that a run logs samples of it.

    `train_rows` is the size of its training set, `checksum` covers all its rows, `mode` is the training mode, on which
    the model depends as well, `manifest` describes its parts, and `tags` says how the run was trained on it. If
    `held_out`, the sample of the training set was left out of the fit.
    """

    train_rows: int
    checksum: str
    mode: str
    manifest: dict[str, Any]
    held_out: bool
    tags: dict[str, str]


def is_conflict(error: BaseException) -> bool:
    """Return whether an error means that two processes wrote the same record at once; a retry will then find it."""
    return isinstance(error, OUTAGE) and bool(re.search(CONFLICT, str(error)))


retried = retry(
    retry=retry_if_exception(is_conflict),
    stop=stop_after_attempt(6),
    wait=wait_random_exponential(multiplier=0.1, max=2),
    reraise=True,
)


@dataclass(frozen=True)
class Store:
    """An MLflow tracking store, with the experiment and the registered model of this project.

    The client has its own address. MLflow's process-wide tracking URI is never used.
    """

    client: MlflowClient
    experiment_id: str
    model_name: str

    def download(self, uri: str, folder: Path | str | None = None) -> Path:
        """Download an artifact to a folder; without one, return the path of a file on this machine."""
        target = str(folder) if folder else None
        return Path(download_artifacts(uri, dst_path=target, tracking_uri=self.client.tracking_uri))

    def run_of(self, version: ModelVersion) -> Run:
        """Return the run behind a version of the model."""
        return self.client.get_run(str(version.run_id))

    def read_text(self, run_id: str, name: str) -> str:
        """Return a text artifact of a run."""
        with tempfile.TemporaryDirectory() as folder:
            return self.download(f"runs:/{run_id}/{name}", folder).read_text()


@contextmanager
def store(config: Settings) -> Iterator[Store]:
    """Open the project's store for the block; raise `TrackingError` if it cannot be read or written."""
    with translate_errors(*OUTAGE, sqlite3.Error, OSError):
        yield open_store(config)


@contextmanager
def existing_store(config: Settings) -> Iterator[Store]:
    """Open the project's store as `store` does, or raise `TrackingError` if it is a file that does not exist."""
    url = make_url(config.mlflow_uri)
    if url.drivername == "sqlite" and not Path(url.database or "").exists():  # MLflow would create an empty one
        raise TrackingError("there is no MLflow store, or it was deleted. Train a model: make run.")
    with store(config) as opened:
        yield opened


@contextmanager
def translate_errors(*errors: type[Exception], consequence: str = "") -> Iterator[None]:
    """Turn an MLflow error into a `TrackingError` that gives its cause, its consequence, and what to do."""
    try:
        yield
    except errors as error:
        cause = root_cause(error)
        advice = (what for words, what in ADVICE.items() if re.search(words, str(cause), re.IGNORECASE))
        line = f"MLflow: {shorten(str(cause), SHOWN)}. {consequence}{next(advice, RUN_AGAIN)}"
        raise TrackingError(line) from error


@retried
def open_store(config: Settings) -> Store:
    """Return the project's store, and create the experiment if it doesn't exist.

    A lock admits one process at a time if MLflow creates the database itself, because its migrations take no lock.
    """
    for chatty in ("mlflow", "alembic"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # it also raises what it logs
    on_server = config.mlflow_uri.startswith("http")
    with nullcontext() if on_server else exclusive_lock(config.local / "mlflow.lock"):
        if config.mlflow_uri.startswith("sqlite:"):  # if it can't be opened, MLflow would retry for minutes
            with closing(sqlite3.connect(str(make_url(config.mlflow_uri).database))) as database:
                database.execute("PRAGMA schema_version")
        client = MlflowClient(move_credentials_to_environment(config.mlflow_uri))
        if experiment := client.get_experiment_by_name(config.experiment):
            return Store(client, experiment.experiment_id, config.registered_model)
        folder = None if on_server else config.mlruns.resolve().as_uri()
        return Store(client, client.create_experiment(config.experiment, folder), config.registered_model)


def move_credentials_to_environment(address: str) -> str:
    """Return the address of a server without user and password, because MLflow quotes it in errors and tracebacks."""
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or parts.password is None:
        return address
    os.environ["MLFLOW_TRACKING_USERNAME"] = unquote(parts.username or "")
    os.environ["MLFLOW_TRACKING_PASSWORD"] = unquote(parts.password)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def root_cause(error: BaseException) -> BaseException:
    """Return the disk or network error that caused an MLflow error, or else the MLflow error itself."""
    cause: BaseException | None = error
    while cause and not isinstance(cause, OSError):
        cause = cause.__cause__ or cause.__context__
    return cause or error


def save_model(pipeline: Pipeline, path: Path) -> Path:
    """Save a pipeline as a compressed skops file, whole or not at all, and return its path.

    Unlike a pickle, a skops file contains no code that runs when it is loaded.
    """
    import skops.io  # imported here, because it takes seconds and most commands don't need it

    with atomic_write(path) as part:
        skops.io.dump(pipeline, part, compression=zipfile.ZIP_DEFLATED, compresslevel=1)
    return path


def load_model(path: Path) -> Pipeline:
    """Load a pipeline that `save_model` saved."""
    import skops.io

    return skops.io.load(path, trusted=TRUSTED_TYPES)


def log_model(store: Store, run_id: str, pipeline: Pipeline, example: pd.DataFrame) -> str:
    """Log a fitted pipeline to a run, with signature and input example, and return the model's id.

    The signature always declares float64 output, so that a classifier or XGBoost can replace another model. The model
    carries the code of this package that it needs, so it also loads where only its requirements are installed. MLflow
    writes skops files uncompressed; compressed, this one is a fifth as large.
    """
    features = example.filter(FEATURES).reset_index(drop=True)
    params = store.client.get_run(run_id).data.params
    model = store.client.create_logged_model(store.experiment_id, "model", run_id, params=params)
    with own_code() as package, tempfile.TemporaryDirectory() as aside:
        folder = Path(aside) / "model"
        sklearn.save_model(
            pipeline,
            folder,
            mlflow_model=Model(artifact_path=model.artifact_location, run_id=run_id, model_id=model.model_id),
            signature=infer_signature(features, predict(pipeline, features)),
            input_example=features,
            pip_requirements=requirements(),
            skops_trusted_types=TRUSTED_TYPES,
            code_paths=[package],
        )
        save_model(pipeline, folder / MODEL_FILE)
        store.client.log_model_artifacts(model.model_id, str(folder))
    store.client.finalize_logged_model(model.model_id, "READY")
    store.client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])
    return model.model_id


def log_interval(store: Store, run_id: str, interval: Pipeline) -> None:
    """Log the pipeline of half widths as an artifact of a run, and its checksum as a tag."""
    with tempfile.TemporaryDirectory() as aside:
        path = save_model(interval, Path(aside) / INTERVAL_FILE)
        store.client.log_artifact(run_id, str(path))
        store.client.set_tag(run_id, INTERVAL_SUM, sha256(path))


def log_evaluation(store: Store, run_id: str, evaluation: Evaluation) -> None:
    """Log the tables and figures of an evaluation as artifacts of a run."""
    count = min(MANY_ROWS, int(evaluation.slices.loc[ALL, "rows"]))  # pyright: ignore[reportArgumentType]
    title = f"Permutation importance on {count} rows of the gate set"
    store.client.log_text(run_id, evaluation.slices.to_csv(index_label="slice"), SLICES)
    store.client.log_text(run_id, evaluation.importance.to_csv(index_label="feature"), IMPORTANCE)
    store.client.log_figure(run_id, importance_figure(evaluation.importance, title), "importance.png")
    store.client.log_figure(run_id, evaluation.dependence, "partial_dependence.png")


def requirements() -> list[str]:
    """Return the packages that a logged model needs, pinned, for every platform."""
    pinned, xgboost = [f"{name}=={version(name)}" for name in REQUIRED], version(XGBOOST)
    on_linux, elsewhere = "xgboost-cpu=={}; sys_platform == 'linux'", "xgboost=={}; sys_platform != 'linux'"
    return [*pinned, on_linux.format(xgboost), elsewhere.format(xgboost)]


@contextmanager
def own_code() -> Iterator[str]:
    """Yield a folder with the name of this package that contains `OWN_CODE` only.

    It has no `__init__.py`, so Python prefers an installed package of that name, wherever that is on the path.
    """
    here = Path(__file__).parent
    with tempfile.TemporaryDirectory() as aside:
        package = Path(aside) / here.name
        package.mkdir()
        for module in OWN_CODE:
            shutil.copy(here / module, package)
        yield str(package)


def download_model(store: Store, model_id: str, path: Path) -> Path:
    """Copy the file of a logged model, byte for byte, to `path`, and return `path`."""
    location = store.client.get_logged_model(model_id).artifact_location
    with atomic_write(path) as part:
        store.download(f"{location}/{MODEL_FILE}", part.parent).rename(part)
    return path


def log_dataset(
    store: Store, run_id: str, rows: pd.DataFrame, name: str, context: str, whole: Whole | None = None
) -> None:
    """Log a table, or the `whole` that it samples, as a dataset of a run for `training` or for `evaluation`."""
    logged = dataset_input(rows, name, context, whole)
    retried(store.client.log_inputs)(run_id, [logged])  # another run may log the same dataset at the same moment


def dataset_input(rows: pd.DataFrame, name: str, context: str, whole: Whole | None = None) -> DatasetInput:
    """Return what MLflow logs of a table, or of the `whole` that it samples: name, shape and digest."""
    table = rows.astype({TARGET: "float64"}).reset_index(drop=True)  # otherwise the digest would cover the index
    described = from_pandas(table, name=name, targets=TARGET).to_dict()
    if whole is not None:
        shape = {"num_rows": whole.train_rows, "num_elements": whole.train_rows * table.shape[1]}
        described |= {"profile": json.dumps(shape), "digest": whole.checksum[:8]}
    return DatasetInput(Dataset(**described), [InputTag(MLFLOW_DATASET_CONTEXT, context)])


@contextmanager
def running(store: Store, name: str, tags: dict[str, str]) -> Iterator[str]:
    """Create a run and yield its id; it ends with the block, as failed if the block raises."""
    about = {MLFLOW_USER: getpass.getuser(), MLFLOW_SOURCE_NAME: Path(sys.argv[0]).name, MLFLOW_SOURCE_TYPE: "LOCAL"}
    run_id = store.client.create_run(store.experiment_id, tags=about | tags, run_name=name).info.run_id
    try:
        yield run_id
    except BaseException:
        store.client.set_terminated(run_id, "FAILED")
        raise
    store.client.set_terminated(run_id)


def log_run(
    store: Store, name: str, pipeline: Pipeline, split: tuple[pd.DataFrame, pd.DataFrame | None], source: str,
    params: dict[str, Any], metrics: dict[str, float] | None = None, tags: dict[str, str] | None = None,
    interval: Pipeline | None = None, evaluation: Evaluation | None = None, whole: Whole | None = None,
) -> Tracked:  # fmt: skip
    """Log a pipeline that was fitted on the training set as a run: parameters, metrics, tags, datasets, and the model.

    `split` is the training set and the gate set, each of shape (n rows, 13). Without a gate set the run cannot be
    compared with the champion; with one, its metrics are added as `gate_<name>`. `source` is that of `sources.Dataset`,
    `interval` the pipeline of `intervals.fit_half_width`, and `evaluation` that of the model on the gate set. With a
    `whole`, the two sets are samples of it.
    """
    train, gate_set = split
    with running(store, name, {SOURCE: source, **(tags or {})}) as run_id:
        store.client.log_batch(run_id, params=[Param(key, str(value)) for key, value in params.items()])
        log_dataset(store, run_id, train, source, "training", whole)
        if whole is not None:
            store.client.set_tag(run_id, BY_HASH, "yes")
            store.client.log_dict(run_id, whole.manifest, PARTS)
        store.client.log_text(run_id, "\n".join(row_keys(train)), TRAINED_ON)
        metrics = dict(metrics or {})
        if gate_set is not None:
            actual, predicted = gate_set[TARGET].to_numpy(), predict(pipeline, gate_set)
            metrics |= {f"gate_{measure}": value for measure, value in scores(actual, predicted).items()}
            store.client.set_tag(run_id, SCORED_ON, checksum(gate_set))
            log_dataset(store, run_id, gate_set, source, "evaluation")
            figure = predicted_against_actual(actual, predicted, f"{name} on the gate set, {len(gate_set):,} rows")
            store.client.log_figure(run_id, figure, FIGURE)
        if interval is not None:
            log_interval(store, run_id, interval)
        if evaluation is not None:
            metrics["gate_coverage"] = evaluation.slices.loc[ALL, "coverage"]
            log_evaluation(store, run_id, evaluation)
        model_id = log_model(store, run_id, pipeline, train.head(3))
        now = round(1000 * time.time())
        store.client.log_batch(run_id, [Metric(key, float(value), now, 0, model_id) for key, value in metrics.items()])
    return Tracked(run_id, store.experiment_id, model_id)


def checksum(rows: pd.DataFrame) -> str:
    """Return the SHA-256 checksum of the row keys of a table, in any order."""
    return hashlib.sha256("\n".join(sorted(row_keys(rows))).encode()).hexdigest()


def git_commit() -> str:
    """Return the commit of this checkout, with `-dirty` if files were changed, or `unknown` if git can't tell."""
    above = git("rev-parse", "--show-cdup")  # a line break at the top level of a repository
    commit = git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*") if above == "\n" else ""
    return commit.strip() or "unknown"


def git(*words: str) -> str:
    """Return the output of a git command in this checkout, empty if it fails."""
    hook = "GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"  # a git hook sets these for its own repository
    environment = {name: value for name, value in os.environ.items() if name not in hook}
    try:
        done = subprocess.run(["git", *words], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


def create_store() -> None:
    """Create the project's store if it doesn't exist, before MLflow's own server opens it."""
    with store(settings()):
        pass


if __name__ == "__main__":
    sys.exit(exit_code(create_store))
