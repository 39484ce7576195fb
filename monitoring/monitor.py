"""Look at the model in use, say what is wrong, and ask for a new one where that may help.

The flow reads what the service has kept: the predictions of a time, by default the last seven days. It compares their
wines with those that the champion was trained on, measures the error where the true quality has come in meanwhile, and
counts the requests that were refused. `wine_quality.thresholds` has the limits. Beyond one it tells people, and where
there is something new to learn it writes the wines that are labelled by now into a folder and emits an event. Prefect's
trigger starts the deployment `retrain` on that folder, and the gate before the champion decides the rest.

Nothing here changes the model. Run it with `python -m monitoring.monitor`, or `make watch`; the deployment
`watch-weekly` runs it on Monday mornings.
"""

import logging
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import httpx
import numpy as np
import pandas as pd

from orchestration import prepare_home  # isort: skip  it names Prefect's home, which Prefect reads when it is imported

from prefect import flow, task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.events import emit_event
from prefect.runtime import flow_run
from prometheus_client.parser import text_string_to_metric_families
from pydantic import Field

from monitoring import alerts, records
from monitoring.alerts import webhook, what_follows
from monitoring.records import Counters, Record
from monitoring.reference import Reference, load_reference
from orchestration.policies import outside, uncached
from orchestration.show import only_own_lines
from wine_quality import data, drift, labels, predictions
from wine_quality import thresholds as health
from wine_quality.config import Settings, settings
from wine_quality.drift import SCORE, Drift
from wine_quality.errors import exit_code
from wine_quality.schema import COLUMNS, FEATURES, TARGET
from wine_quality.thresholds import Quality, Reading

log = logging.getLogger("wine_quality.watch")

RESOURCE = "wine.model"
WEEK = timedelta(days=7)
PATIENCE = 3.0  # seconds that the service has to tell its counters
SERVICE_IS_AWAY = "the service does not answer, so nobody knows how many requests were refused"


@task(name="read", task_run_name="read predictions and labels", **outside)
def read(since: datetime, until: datetime) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read the predictions of a time, and all that are labelled by now."""
    address = settings().predictions_uri
    made = predictions.load(address, since)
    return made[made["time"] < until], labels.labelled_predictions(address)


@task(name="load what the champion knows", task_run_name="load what the champion knows", **outside)
def load_known() -> Reference:
    """Load the champion's rows, and its scores of the gate set."""
    return load_reference(settings())


@task(name="compare", task_run_name="compare {name}", **uncached)
def compare(name: str, known: Reference, made: pd.DataFrame) -> Drift | None:
    """Compare the wines of the time with those that the champion knows; keep Evidently's page where they are unlike."""
    if len(made) < health.FEWEST_COMPARED:
        log.info("drift     %d wines are too few to tell", len(made))
        return None
    found = drift.drift(known.wines, made)
    if found.share >= health.MOST_DRIFTED:
        found.save_html(records.path_of(settings(), name, ".html"))
    return found


@task(name="measure", task_run_name="measure the error", **uncached)
def measure(known: Reference, labelled: pd.DataFrame, seed: int) -> Quality | None:
    """Measure the error on the newest labelled wines that the version in use has scored."""
    own = labelled[(labelled["version"] == known.version) & np.isfinite(labelled[SCORE])]
    return health.quality(own[TARGET].to_numpy(), own[SCORE].to_numpy(), known.expected, seed)


@task(name="ask the service", task_run_name="ask the service", **uncached)
def counters(port: int) -> Counters | None:
    """Ask the service how many requests with wines it had, and how many of them it refused."""
    try:
        page = httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=PATIENCE).raise_for_status().text
    except httpx.HTTPError:
        log.warning("service   %s", SERVICE_IS_AWAY)
        return None
    samples = [sample for family in text_string_to_metric_families(page) for sample in family.samples]
    statuses = [
        (sample.labels["status"], int(sample.value))
        for sample in samples
        if sample.name == "wine_requests_total" and sample.labels["path"] == "/predict"
    ]
    started = next(sample.value for sample in samples if sample.name == "process_start_time_seconds")
    refused = sum(count for status, count in statuses if status.startswith("4"))
    return Counters(started, sum(count for _, count in statuses), refused)


@task(name="collect", task_run_name="collect what there is to learn from", **uncached)
def collect(name: str, wines: pd.DataFrame) -> Path:
    """Write the wines that there are to learn from into a folder."""
    folder = settings().local / "labelled" / name.replace(" ", "-")
    data.write_table(wines, folder)
    return folder


def to_learn_from(known: Reference, labelled: pd.DataFrame) -> pd.DataFrame:
    """Return the champion's wines and the labelled ones, each once: a label that came later is the better one."""
    both = pd.concat([labelled[COLUMNS].iloc[::-1], known.wines[COLUMNS]])
    return both.drop_duplicates(FEATURES).iloc[::-1].reset_index(drop=True)


def last_lesson(known: Reference, earlier: list[Record]) -> int:
    """Return how many wines there were to learn from when a model was last trained or asked for."""
    return max([len(known.wines), *(record.known for record in earlier if record.event)])


@task(name="ask for a new model", task_run_name="ask for a new model: {kind}", **uncached)
def ask_for_model(model: str, kind: str, folder: str, version: str) -> None:
    """Emit the event that starts the training."""
    resource = {"prefect.resource.id": RESOURCE, "prefect.resource.name": f"{model} {version}"}
    emit_event(f"wine.{kind}", resource, payload={"data": folder})
    log.info("event     wine.%s, which starts the deployment retrain. By hand: make run WINE_DATA=%s", kind, folder)


def leave_report(record: Record, found: Drift | None) -> None:
    """Leave the report and the table of columns with the flow run."""
    create_markdown_artifact(report(record), key="watch-report", description="What one look at the model found")
    if found:
        rows = [{"column": name, **row} for name, row in found.columns.to_dict("index").items()]
        create_table_artifact(rows, key="drift", description="Each column against the wines that the champion knows")


def report(record: Record) -> str:
    """Return a record as Markdown."""
    seen = record.reading
    refused = SERVICE_IS_AWAY if seen.asked is None else f"{seen.refused} of {seen.asked} requests"
    share = "too few wines to tell" if seen.drift is None else f"{seen.drift:.0%} of the columns"
    error = (
        f"RMSE {seen.quality} on {seen.quality.wines} labelled wines; {seen.quality.expected:.3f} on the gate set"
        if seen.quality
        else "too few labels of wines that this version has scored"
    )
    lines = [
        ("wines", f"{seen.wines} scored, by version {seen.version}"),
        ("refused", refused),
        ("drift", f"{share}{': ' if seen.drifted else ''}{', '.join(seen.drifted)}"),
        ("missing", "; ".join(seen.missing) or "no column"),
        ("scores", "unlike those of the gate set" if seen.score_drifted else "as those of the gate set"),
        ("error", error),
        ("what follows", what_follows(record)),
    ]
    rows = [f"| {what} | {told} |" for what, told in lines]
    return "\n".join([f"# {seen.name}", "", "| | |", "| --- | --- |", *rows])


def look_name() -> str:
    """Return the name of a look: as asked for, or the week of the year."""
    return flow_run.parameters.get("name") or f"{datetime.now(UTC):%G week %V}"


@flow(name="watch-wine", flow_run_name=look_name)
def watch_wine(
    since: datetime | None = None,
    until: datetime | None = None,
    name: Annotated[str | None, Field(pattern=r"^[a-z0-9 ]{1,40}$")] = None,
) -> Record:
    """Look at the model in use, and return what was found and what follows.

    Args:
        since: From when on. Left empty, seven days before the end.
        until: Up to when. Left empty, now.
        name: What to call it. Left empty, the week of the year.
    """
    config, until, name = settings(), until or datetime.now(UTC), name or look_name()
    since = since or until - WEEK
    known = load_known()
    made, labelled = read(since, until)
    found, now = compare(name, known, made), counters(config.serve_port)
    earlier = [record for record in records.records(config) if record.reading.name != name]
    counted = now and now.since(earlier[-1].counters if earlier else None)
    reading = Reading(
        name=name,
        version=known.version,
        asked=counted and counted.asked,
        refused=counted and counted.refused,
        wines=len(made),
        drift=found and found.share,
        drifted=found.drifted if found else [],
        score_drifted=bool(found and found.score_drifted),
        quality=measure(known, labelled, config.seed),
        missing=found.missing if found else [],
    )
    record = decide(reading, known, labelled, earlier, (since, until), now)
    act(config, record, found)
    return record


def decide(
    reading: Reading,
    known: Reference,
    labelled: pd.DataFrame,
    earlier: list[Record],
    span: tuple[datetime, datetime],
    now: Counters | None,
) -> Record:
    """Hold a reading against the limits, and return what follows from it."""
    wrong = health.findings(reading)
    wines = to_learn_from(known, labelled)
    event, why = health.event(wrong, len(wines), last_lesson(known, earlier))
    folder = str(collect(reading.name, wines)) if event else ""
    before = {finding.kind for finding in earlier[-1].findings} if earlier else set()
    news = bool(event or {finding.kind for finding in wrong} - before)
    return Record(reading, wrong, *span, now, len(wines), event, why, folder, news)


def act(config: Settings, record: Record, found: Drift | None) -> None:
    """Tell what was found, ask for a new model where one is wanted, and keep the record last, for it stands for all."""
    sent = webhook.submit(alerts.message(record)) if config.webhook and record.news else None
    leave_report(record, found)
    if record.findings:
        alerts.tell(record)
    log.info("look      %s: %s", record.reading.name, what_follows(record))
    if record.event:
        ask_for_model(config.registered_model, record.event, record.data, record.reading.version)
    records.keep(config, record)
    if sent and (state := sent.wait() or sent.state).is_failed():
        log.error("webhook   %s", state.message)


def main() -> None:
    """Run the flow on a quiet screen: its own lines."""
    prepare_home()
    only_own_lines()
    watch_wine()


if __name__ == "__main__":
    sys.exit(exit_code(main))
