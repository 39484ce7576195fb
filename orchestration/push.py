"""Push a training run to the bucket again, rebuilt from what MLflow has of it.

Use it when the bucket has changed, or when an object in it was deleted or damaged. Run it with
`python -m orchestration.push RUN_ID`, or `make push RUN=<run id>`.
"""

import sys
import tempfile
from pathlib import Path

from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from orchestration.artifacts import connect_quietly
from orchestration.bucket import bucket_line, wine_bucket
from orchestration.report import REPORT
from orchestration.startup import prepare_home
from wine_quality import retention, storage, tracking
from wine_quality.command import exit_code
from wine_quality.config import Settings, settings
from wine_quality.errors import RegistryError, SettingsError
from wine_quality.files import exclusive_lock
from wine_quality.tracking import MODEL_FILE, WINES, Store


def rebuild(config: Settings, run_id: str) -> None:
    """Put a run's files from MLflow into the outbox, unless they wait there already.

    Raises
    ------
    RegistryError
        MLflow has no such run, or not all of its files any more.
    """
    if (config.outbox / run_id).is_dir():
        return
    with tracking.store(config) as store, tempfile.TemporaryDirectory() as aside:
        run = known_run(store, run_id)
        there = {file.path for file in store.client.list_artifacts(run_id)}
        models = retention.model_ids(run)
        if missing := [name for name in (WINES, REPORT) if name not in there] + ([] if models else [MODEL_FILE]):
            raise RegistryError(f"run {run_id}: MLflow does not have its {', '.join(missing)}. Train again: make run.")
        files = {name: store.download(f"runs:/{run_id}/{name}", aside) for name in (WINES, REPORT)}
        files[MODEL_FILE] = tracking.download_model(store, models[0], Path(aside) / MODEL_FILE)
        storage.add_to_outbox(config.outbox, run_id, files)


def known_run(store: Store, run_id: str) -> Run:
    """Return a run of MLflow by its id."""
    try:
        return store.client.get_run(run_id)
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        raise RegistryError(f"MLflow has no run {run_id}. Copy its id from MLflow, or run make bucket.") from None


def main() -> None:
    """Push the run that the command line names, and whatever else waits."""
    if len(sys.argv) != 2:
        raise SettingsError("which run? Give its id, as in: make push RUN=0123456789abcdef")
    prepare_home()
    connect_quietly()
    config = settings()
    print(f"bucket    {bucket_line(config)}")
    with exclusive_lock(config.local / "outbox.lock"):
        rebuild(config, sys.argv[1])
        with wine_bucket(config) as (bucket, _):
            for run_id in storage.push_waiting(bucket, config.outbox):
                print(f"push      runs/{run_id}")


if __name__ == "__main__":
    sys.exit(exit_code(main))
