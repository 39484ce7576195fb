"""Score files of wine in the bucket with the champion.

Put CSV or Parquet files under `incoming/` in the bucket. Each is scored in chunks, whatever its size, and lies under
`scored/` afterwards, with the score, the quality it rounds to, the version of the model and the time on every row. A
file that cannot be scored goes to `rejected/` with its reasons beside it, and the others are scored all the same. A
file is scored once by each version: `wine_quality.batches` says how, and what holds when a run is killed.

The tasks share the open bucket and the loaded model. Prefect stores no arguments of a task whose result isn't cached.

Run it with `python -m deployment.batch`, or `make score`; the deployment `score-batches` runs it every hour.
"""

import logging
import sys
from collections import Counter
from pathlib import Path

from prefect import flow, task
from prefect.artifacts import create_table_artifact
from prefect_aws import S3Bucket

from orchestration.artifacts import log_to_screen
from orchestration.bucket import bucket_line, wine_bucket
from orchestration.policies import RETRY_TRANSIENT, run_name
from orchestration.startup import prepare_home
from wine_quality import batches, registry, tracking
from wine_quality.batches import Entry, Outcome
from wine_quality.command import exit_code
from wine_quality.config import settings
from wine_quality.errors import RegistryError, StorageError, StorageUnavailable
from wine_quality.files import exclusive_lock
from wine_quality.scoring import Scorer, load_scorer

log = logging.getLogger("wine_quality.batch")


@task(name="look", task_run_name="look", **RETRY_TRANSIENT)
def look(bucket: S3Bucket) -> list[Entry]:
    """Find the files that wait."""
    found = batches.waiting(bucket)
    log.info("look      %d file(s) under %s", len(found), batches.INCOMING)
    return found


@task(name="load the champion", task_run_name="load the champion", **RETRY_TRANSIENT)
def load_champion() -> Scorer:
    """Load the version that is in use."""
    config = settings()
    with tracking.store(config) as store:
        version = registry.champion(store)
    if version is None:
        raise RegistryError(f"{config.registered_model} has no champion to score with. Train one first: make run.")
    scorer = load_scorer(config, version)
    log.info("champion  version %s", scorer.version)
    return scorer


@task(name="score", task_run_name="score {name}", **RETRY_TRANSIENT)
def score(bucket: S3Bucket, name: str, entry: Entry, scorer: Scorer, folder: Path) -> Outcome:
    """Score one file, or reject it."""
    return batches.process(bucket, entry, scorer, folder, settings().predictions_uri)


def score_each(bucket: S3Bucket, found: list[Entry], scorer: Scorer, folder: Path) -> list[Outcome]:
    """Score one file after the other. One that the bucket does not give keeps none of the others waiting."""
    outcomes = []
    for entry in found:
        name = batches.name_of(entry)
        try:
            outcomes.append(score(bucket, name, entry, scorer, folder))
        except StorageUnavailable:
            raise
        except StorageError as error:
            outcomes.append(Outcome(name, 0, "", "failed", str(error)))
        log_outcome(outcomes[-1])
    return outcomes


def log_outcome(outcome: Outcome) -> None:
    """Say what became of a file."""
    if outcome.reasons:
        log.warning("%-9s %s: %s", outcome.state, outcome.file, outcome.reasons)
    else:
        log.info("%-9s %s: %s rows", outcome.state, outcome.file, f"{outcome.rows:,}")


def leave_table(outcomes: list[Outcome]) -> None:
    """Leave a row for each file with the flow run, and say how many there are of each state."""
    rows = [{"file": one.file, "rows": one.rows, "version": one.version, "state": one.state} for one in outcomes]
    create_table_artifact(rows, key="scored-files", description="What became of each file under incoming/")
    states = Counter(one.state for one in outcomes)
    log.info("done      %s", ", ".join(f"{count} {state}" for state, count in states.items()))


def raise_failed(outcomes: list[Outcome]) -> None:
    """Let the run fail where a file did."""
    failed = [one for one in outcomes if one.state == "failed"]
    if failed:
        raise StorageError(f"{len(failed)} of {len(outcomes)} files failed. {failed[0].file}: {failed[0].reasons}")


@flow(name="score-wine-batches", flow_run_name=run_name)
def score_wine_batches() -> list[Outcome]:
    """Score every file under `incoming/`, and return what became of each."""
    config = settings()
    log.info("bucket    %s", bucket_line(config))
    with exclusive_lock(config.local / "batch.lock"), wine_bucket(config) as (bucket, _):
        found = look(bucket)
        if not found:
            return []
        outcomes = score_each(bucket, found, load_champion(), config.local / "batch")
    leave_table(outcomes)
    raise_failed(outcomes)
    return outcomes


def main() -> None:
    """Run the flow on a quiet screen: its own lines."""
    prepare_home()
    log_to_screen()
    score_wine_batches()


if __name__ == "__main__":
    sys.exit(exit_code(main))
