"""Score the files in the bucket with the champion.

Put CSV or Parquet files under `incoming/` in the bucket. Each is scored in chunks, whatever its size, and written to
`scored/` with the score, the rounded score, the model version and the time added to every row. A file that can't be
scored is moved to `rejected/` together with the reasons, and the other files are scored as usual. Each version scores a
file once: `wine_quality.batches` describes how, and what is guaranteed if a run is killed.

With `WINE_WORKERS` or `WINE_DASK`, workers score the files in parallel, and each loads the model once. They don't use
Prefect: a file is a task of the flow only if this process scores it. Prefect doesn't store the arguments of a task
whose result isn't cached, such as the open bucket.

Run it with `make score`; the deployment `score-batches` runs it every hour.
"""

import logging
from collections import Counter

from prefect import flow, task
from prefect.artifacts import create_table_artifact

from orchestration.bucket import bucket_line, wine_bucket
from orchestration.policies import RETRY_TRANSIENT, run_name
from wine_quality import batches, registry, tracking
from wine_quality.batches import Entry, Outcome
from wine_quality.config import settings
from wine_quality.engines import Engine, InProcess, Shared, open_engine
from wine_quality.errors import RegistryError, StorageError
from wine_quality.files import exclusive_lock
from wine_quality.plain_bucket import PlainBucket
from wine_quality.storage import Bucket

log = logging.getLogger("wine_quality.batch")


@task(name="list", task_run_name="list incoming files", **RETRY_TRANSIENT)
def list_incoming(bucket: Bucket) -> list[Entry]:
    """List the files to score."""
    entries = batches.list_incoming(bucket)
    log.info("list      %d file(s) under %s", len(entries), batches.INCOMING)
    return entries


@task(name="load the champion", task_run_name="load the champion", **RETRY_TRANSIENT)
def load_champion(bucket: Bucket, in_process: bool) -> Shared:
    """Return the place where the champion scores: this process, which loads it now, or each worker."""
    config = settings()
    with tracking.store(config) as store:
        version = registry.champion(store)
    if version is None:
        raise RegistryError(f"{config.registered_model} has no champion to score with. Train one first: make run.")
    place = batches.workplace(config, str(version.version), bucket if in_process else PlainBucket.like(bucket))
    if in_process:
        place.get()
    log.info("champion  version %s", version.version)
    return place


@task(name="score", task_run_name="score {name}", **RETRY_TRANSIENT)
def score(name: str, place: Shared, entry: Entry) -> Outcome:
    """Score one file, or reject it."""
    return batches.process_at(place, entry)


def score_each(engine: Engine, bucket: Bucket, entries: list[Entry]) -> list[Outcome]:
    """Score the files, log each result and, with workers, the progress; return the results in the order given."""
    in_process = isinstance(engine, InProcess)
    place, work = load_champion(bucket, in_process), score if in_process else batches.process_on_worker
    outcomes: dict[int, Outcome] = {}
    for number, outcome in batches.spread(engine, entries, work, place):
        outcomes[number] = outcome
        level = logging.WARNING if outcome.reasons else logging.INFO
        log.log(level, "%-9s %s: %s", outcome.state, outcome.file, outcome.reasons or f"{outcome.rows:,} rows")
        if not in_process:
            rows = sum(one.rows for one in outcomes.values())
            log.info("progress  %d of %d files, %s rows", len(outcomes), len(entries), f"{rows:,}")
    return [outcomes[number] for number in range(len(entries))]


def report(outcomes: list[Outcome]) -> None:
    """Create a table artifact with a row per file, log how many are in each state, and raise if a file failed."""
    rows = [{"file": one.file, "rows": one.rows, "version": one.version, "state": one.state} for one in outcomes]
    create_table_artifact(rows, key="scored-files", description="The result of each file under incoming/")
    states = Counter(one.state for one in outcomes)
    log.info("done      %s", ", ".join(f"{count} {state}" for state, count in states.items()))
    if failed := [one for one in outcomes if one.state == "failed"]:
        raise StorageError(f"{len(failed)} of {len(outcomes)} files failed. {failed[0].file}: {failed[0].reasons}")


@flow(name="score-wine-batches", flow_run_name=run_name)
def score_wine_batches() -> list[Outcome]:
    """Score every file under `incoming/`, and return the result of each."""
    config = settings()
    log.info("bucket    %s", bucket_line(config))
    with exclusive_lock(config.local / "batch.lock"), wine_bucket(config) as (bucket, _):
        entries = list_incoming(bucket)
        if not entries:
            return []
        with batches.empty_folder(config.local / "batch"), open_engine(config) as engine:
            outcomes = score_each(engine, bucket, entries)
    report(outcomes)
    return outcomes
