"""Push a training run to the bucket again, rebuilt from what MLflow stores.

Use it when the bucket has changed, or when an object in it was deleted or damaged. Run it with
`python -m orchestration.push RUN_ID`, or `make push RUN=<run id>`.
"""

import sys
import tempfile
from pathlib import Path

from mlflow.exceptions import MlflowException

from orchestration.bucket import bucket_line, wine_bucket
from orchestration.report import CARD, REPORT
from orchestration.startup import connect_quietly
from wine_quality import retention, storage, tracking
from wine_quality.command import exit_code
from wine_quality.config import Settings
from wine_quality.errors import RegistryError, SettingsError
from wine_quality.files import exclusive_lock
from wine_quality.tracking import INTERVAL_FILE, MODEL_FILE, ROWS_FILE

FILES = (INTERVAL_FILE, ROWS_FILE, REPORT, CARD)  # what is pushed beside the model


def rebuild(config: Settings, run_id: str) -> None:
    """Put a run's files from MLflow into the outbox, or raise a `RegistryError` if it lacks any of them."""
    with tracking.store(config) as store, tempfile.TemporaryDirectory() as folder:
        try:
            run = store.client.get_run(run_id)
        except MlflowException as error:
            if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                raise
            raise RegistryError(f"MLflow has no run {run_id}. Copy its id from MLflow, or run make bucket.") from None
        names = {file.path for file in store.client.list_artifacts(run_id)}
        models = retention.model_ids(run)
        missing = [name for name in FILES if name not in names] + ([] if models else [MODEL_FILE])
        if missing:
            raise RegistryError(f"run {run_id}: MLflow does not have its {', '.join(missing)}. Train again: make run.")
        files: dict[str, Path | bytes] = {name: store.download(f"runs:/{run_id}/{name}", folder) for name in FILES}
        model = tracking.download_model(store, models[0], Path(folder) / MODEL_FILE)
        storage.add_to_outbox(config.outbox, run_id, {**files, MODEL_FILE: model})


def main() -> None:
    """Push the run that the command line names, unless it is in the outbox already, and the rest of the outbox."""
    if len(sys.argv) != 2:
        raise SettingsError("which run? Give its id, as in: make push RUN=0123456789abcdef")
    config, run_id = connect_quietly(), sys.argv[1]
    print(f"bucket    {bucket_line(config)}")
    with exclusive_lock(config.local / "outbox.lock"):
        if not (config.outbox / run_id).is_dir():
            rebuild(config, run_id)
        with wine_bucket(config) as (bucket, _):
            for run_id in storage.push_waiting(bucket, config.outbox):
                print(f"push      runs/{run_id}")


if __name__ == "__main__":
    sys.exit(exit_code(main))
