"""Score files of wine in the bucket with the champion.

Put CSV or Parquet files under `incoming/` in the bucket. Each is scored in chunks, whatever its size, and lies under
`scored/` afterwards, with the score, the quality it rounds to, the version of the model and the time on every row. A
file that cannot be scored goes to `rejected/` with its reasons beside it, and the others are scored all the same. A
file is scored once by each version: `wine_quality.batches` says how, and what holds when a run is killed.

The tasks share the open bucket and the loaded model. Prefect stores no arguments of a task whose result isn't cached.

Run it with `make score`; the deployment `score-batches` runs it every hour.
"""

import logging
from collections import Counter
from pathlib import Path

from prefect import flow, task
from prefect.artifacts import create_table_artifact

from orchestration.bucket import bucket_line, wine_bucket
from orchestration.policies import RETRY_TRANSIENT, run_name
from wine_quality import batches, registry, tracking
from wine_quality.batches import Entry, Outcome
from wine_quality.config import settings
from wine_quality.errors import RegistryError, StorageError, StorageUnavailable
from wine_quality.files import exclusive_lock
from wine_quality.scoring import Scorer, load_scorer
from wine_quality.storage import Bucket

log = logging.getLogger("wine_quality.batch")


@task(name="list", task_run_name="list incoming files", **RETRY_TRANSIENT)
def list_incoming(bucket: Bucket) -> list[Entry]:
    """List the files to score."""
    entries = batches.list_incoming(bucket)
    log.info("list      %d file(s) under %s", len(entries), batches.INCOMING)
    return entries


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
def score(bucket: Bucket, name: str, entry: Entry, scorer: Scorer, folder: Path) -> Outcome:
    """Score one file, or reject it."""
    return batches.process(bucket, entry, scorer, folder, settings().predictions_uri)


def score_each(bucket: Bucket, entries: list[Entry], scorer: Scorer, folder: Path) -> list[Outcome]:
    """Score one file after the other and log each result. A file on which the bucket fails does not stop the others."""
    outcomes = []
    for entry in entries:
        name = batches.safe_name(entry)
        try:
            outcome = score(bucket, name, entry, scorer, folder)
        except StorageUnavailable:
            raise
        except StorageError as error:
            outcome = Outcome(name, 0, "", "failed", str(error))
        level = logging.WARNING if outcome.reasons else logging.INFO
        log.log(level, "%-9s %s: %s", outcome.state, outcome.file, outcome.reasons or f"{outcome.rows:,} rows")
        outcomes.append(outcome)
    return outcomes


def report(outcomes: list[Outcome]) -> None:
    """Create a table artifact with a row for each file, log how many are in each state, and fail if a file failed."""
    rows = [{"file": one.file, "rows": one.rows, "version": one.version, "state": one.state} for one in outcomes]
    create_table_artifact(rows, key="scored-files", description="The result for each file under incoming/")
    states = Counter(one.state for one in outcomes)
    log.info("done      %s", ", ".join(f"{count} {state}" for state, count in states.items()))
    if failed := [one for one in outcomes if one.state == "failed"]:
        raise StorageError(f"{len(failed)} of {len(outcomes)} files failed. {failed[0].file}: {failed[0].reasons}")


@flow(name="score-wine-batches", flow_run_name=run_name)
def score_wine_batches() -> list[Outcome]:
    """Score every file under `incoming/`, and return the result for each."""
    config = settings()
    log.info("bucket    %s", bucket_line(config))
    with exclusive_lock(config.local / "batch.lock"), wine_bucket(config) as (bucket, _):
        entries = list_incoming(bucket)
        if not entries:
            return []
        outcomes = score_each(bucket, entries, load_champion(), config.local / "batch")
    report(outcomes)
    return outcomes
