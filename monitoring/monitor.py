"""Monitor the champion: measure drift and error, alert people, and request a retraining if there are enough new labels.

The flow loads the predictions that the service stored in a period, by default the last seven days. It tests their
features for drift from a reference, measures the error and the coverage of the intervals on the labels received so far,
and counts rejected requests. `wine_quality.thresholds` has the alert rules. If a threshold is crossed, the flow alerts
people. If there are also enough new labels, it writes the labelled rows to a folder and emits an event. A Prefect
automation then starts the deployment `retrain` on that folder, and the gate decides whether to promote the new model.

A challenger in shadow deployment has scored the same rows. If it is better on their labels, by the rule of the gate,
this flow promotes it, or asks a person for approval. Run it with `make monitor`; the deployment `monitor-weekly` runs
it every Monday morning.
"""

import json
import logging
from datetime import UTC, datetime, timedelta
from itertools import chain, count
from pathlib import Path
from typing import Annotated, Any

import httpx
import numpy as np
import pandas as pd
from prefect import flow, task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.events import emit_event
from prefect.runtime import flow_run
from prometheus_client.parser import text_string_to_metric_families
from pydantic import Field

from monitoring import alerts
from monitoring.alerts import send_webhook
from monitoring.records import Record, RequestCounters, load_records, record_path, save_record
from monitoring.reference import Reference, load_reference
from orchestration.approval import promote_if_unchanged, propose, reject_cancelled, wait_for_approval
from orchestration.policies import RETRY_TRANSIENT, UNCACHED
from wine_quality import drift, labels, predictions, registry, shadow, slices, sources, thresholds, tracking
from wine_quality.config import Settings, settings
from wine_quality.drift import SCORE, Drift
from wine_quality.schema import COLUMNS, FEATURES, TARGET
from wine_quality.shadow import ShadowComparison
from wine_quality.templates import render
from wine_quality.thresholds import MonitoringResult

log = logging.getLogger("wine_quality.monitor")

RESOURCE = "wine.model"
WEEK = timedelta(days=7)
METRICS_TIMEOUT = 3.0  # seconds
SERVICE_DOWN = "the service doesn't answer"


@task(name="load predictions", task_run_name="load predictions and labels", **RETRY_TRANSIENT)
def load_predictions(since: datetime, until: datetime) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Load the period's predictions, and all predictions that have a label so far."""
    url = settings().predictions_uri
    return predictions.load(url, since, until), labels.labelled_predictions(url)


@task(name="load reference", task_run_name="load the champion's reference data", **RETRY_TRANSIENT)
def load_champion_reference() -> Reference:
    """Load the champion's training set and gate set, with its scores on the gate set."""
    return load_reference(settings())


@task(name="load reference window", task_run_name="load the reference window", **RETRY_TRANSIENT)
def load_window(reference: Reference, earlier: list[Record]) -> tuple[pd.DataFrame, str]:
    """Load the reference window (the champion's training data or first weeks of predictions) and its name."""
    return reference.window(settings().predictions_uri, earlier)


@task(name="detect drift", task_run_name="detect drift in {name}", **UNCACHED)
def detect_drift(name: str, window: pd.DataFrame, current: pd.DataFrame) -> Drift | None:
    """Test the period's rows and predictions for drift from the reference; save Evidently's page if there is any."""
    if min(len(current), len(window)) < thresholds.MIN_ROWS:
        log.info("drift     not tested: too few rows (%d predictions, %d reference rows)", len(current), len(window))
        return None
    result = drift.drift(window, current)
    if result.type_drift or result.share >= thresholds.MAX_DRIFT:
        result.save_html(record_path(settings(), name, ".html"))
    return result


@task(name="measure error", task_run_name="measure the error and the coverage", **UNCACHED)
def measure_error(reference: Reference, labelled: pd.DataFrame, seed: int, column: str) -> dict[str, Any]:
    """Measure the champion's error, overall and by slice, and its intervals' coverage on its newest labels."""
    own = labelled.loc[(labelled["version"] == reference.version) & np.isfinite(labelled[SCORE])]
    actual, scores, low, high = (own[name].to_numpy() for name in (TARGET, SCORE, "low", "high"))
    quality = thresholds.model_quality(actual, scores, reference.gate_rmse, seed)
    coverage, newest = thresholds.interval_coverage(actual, low, high), own.tail(thresholds.LABEL_WINDOW)
    if quality is None:
        return {"quality": None, "coverage": coverage}
    ends = newest["low"].to_numpy(), newest["high"].to_numpy()
    table = slices.error_table(newest, newest[SCORE].to_numpy(), ends, seed, column)
    by_slice = json.loads(str(table.to_json(orient="index")))  # turns NaN (no intervals) into null
    return {"quality": quality, "coverage": coverage, "slices": by_slice}


@task(name="count requests", task_run_name="count requests", **UNCACHED)
def count_requests(port: int) -> RequestCounters | None:
    """Read from the service's metrics how many prediction requests it received and how many it rejected."""
    try:
        page = httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=METRICS_TIMEOUT).raise_for_status().text
    except httpx.HTTPError:
        log.warning("service   %s, so the share of rejected requests is unknown", SERVICE_DOWN)
        return None
    samples = [sample for family in text_string_to_metric_families(page) for sample in family.samples]
    by_status = [
        (sample.labels["status"], int(sample.value))
        for sample in samples
        if sample.name == "wine_requests_total" and sample.labels["path"] == "/predict"
    ]
    started = next((sample.value for sample in samples if sample.name == "wine_start_time_seconds"), None)
    if started is None:
        log.warning("service   port %d is another program's, so the share of rejected requests is unknown", port)
        return None
    rejected = sum(count for status, count in by_status if status.startswith("4"))
    return RequestCounters(started, sum(count for _, count in by_status), rejected)


@task(name="compare challenger", task_run_name="compare the challenger with the champion", **RETRY_TRANSIENT)
def compare_shadow(champion: str, earlier: list[Record]) -> ShadowComparison | None:
    """Compare the challenger with the champion on labelled rows that both scored; None if too few are new."""
    config, before = settings(), [record.shadow for record in earlier if record.shadow]
    with tracking.store(config) as store:
        version = registry.challenger(store) if config.shadow else None
    challenger = str(version.version) if version else champion
    if challenger == champion:  # there is none, or it was promoted by hand
        return None
    pairs = shadow.labelled_pairs(config.predictions_uri, champion, challenger)
    result = shadow.compare(pairs, champion, challenger, before, config.minimum_gain, config.slice)
    if result:
        log.info("shadow    %s", result)
    return result


@task(name="promote from shadow", task_run_name="promote version {version}", **RETRY_TRANSIENT)
def promote_from_shadow(version: str, comparison: ShadowComparison, rows: pd.DataFrame, reason: str) -> None:
    """Promote a challenger that was better on labelled rows, unless the champion has changed since the comparison."""
    promote_if_unchanged(version, rows, comparison.champion, reason)
    log.info("shadow    version %s is now the champion", version)


@task(name="write training data", task_run_name="write the training data", **UNCACHED)
def write_training_data(name: str, table: pd.DataFrame) -> Path:
    """Write the rows for a retraining to a folder, and return it."""
    folder = settings().local / "labelled" / name.replace(" ", "-")
    sources.write_table(table, folder)
    return folder


def training_rows(reference: Reference, labelled: pd.DataFrame) -> pd.DataFrame:
    """Return the champion's rows and the labelled rows, without duplicates; the newest label of a row wins."""
    both = pd.concat([labelled[COLUMNS].iloc[::-1], reference.table[COLUMNS]])
    return both.drop_duplicates(subset=FEATURES).iloc[::-1].reset_index(drop=True)  # pyright: ignore[reportCallIssue]


@task(name="request retraining", task_run_name="request retraining: {trigger}", **UNCACHED)
def request_retraining(model: str, trigger: str, folder: str, version: str) -> None:
    """Emit the event that starts the retraining."""
    resource = {"prefect.resource.id": RESOURCE, "prefect.resource.name": f"{model} {version}"}
    emit_event(f"wine.{trigger}", resource, payload={"data": folder})
    log.info("event     wine.%s starts the deployment retrain. By hand: make run WINE_DATA=%s", trigger, folder)


def report(record: Record) -> str:
    """Return the report on a monitoring run as Markdown."""
    return render("monitoring.md.j2", record=record, result=record.result, service_down=SERVICE_DOWN)


def run_name() -> str:
    """Return the run's name: the parameter if given, else the calendar week."""
    return flow_run.parameters.get("name") or f"{datetime.now(UTC):%G week %V}"


def unused_name(week: str, records: list[Record]) -> str:
    """Return the name of a week, with a number if there is a record of that name: it counts in later decisions."""
    taken = {record.result.name for record in records}
    return next(name for name in chain([week], (f"{week} run {n}" for n in count(2))) if name not in taken)


def aware(moment: datetime) -> datetime:
    """Return a moment with its time zone, UTC if it has none."""
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


@flow(name="monitor-wine-quality", flow_run_name=run_name, on_cancellation=[reject_cancelled])
def monitor_wine_quality(
    since: datetime | None = None,
    until: datetime | None = None,
    name: Annotated[str | None, Field(pattern=r"^[a-z0-9 ]{1,40}$")] = None,
) -> Record:
    """Monitor the champion, and return what was measured and decided.

    Args:
        since: Start of the period. If empty, seven days before its end.
        until: End of the period. If empty, now.
        name: Name of the run, whose record replaces an earlier one of that name. If empty, the calendar week.
    """
    config, until = settings(), aware(until or datetime.now(UTC))
    since, records = aware(since or until - WEEK), load_records(config)
    name = name or unused_name(run_name(), records)
    reference = load_champion_reference()
    current, labelled = load_predictions(since, until)
    earlier = [record for record in records if record.result.name != name]
    window, compared_with = load_window(reference, earlier)
    drifted, measured = (
        detect_drift(name, window, current),
        measure_error(reference, labelled, config.seed, config.slice),
    )
    counters = count_requests(config.serve_port)
    counted = counters and counters.since(next((one.counters for one in reversed(earlier) if one.counters), None))
    result = MonitoringResult(
        name=name,
        version=reference.version,
        requests=counted and counted.requests,
        rejected=counted and counted.rejected,
        predictions=len(current),
        drift_share=drifted and drifted.share,
        drifted=drifted.drifted if drifted else [],
        type_drift=bool(drifted and drifted.type_drift),
        prediction_drift=bool(drifted and drifted.prediction_drift),
        reference=compared_with,
        missing=drifted.missing if drifted else [],
        **measured,
    )
    compared = compare_shadow(reference.version, earlier)
    record = decide(result, reference, labelled, earlier, since=since, until=until, counters=counters, shadow=compared)
    act(config, record, drifted)
    if record.passed_comparison:
        promote_challenger(config, record.passed_comparison, reference.table)
    return record


def promote_challenger(config: Settings, comparison: ShadowComparison, rows: pd.DataFrame) -> None:
    """Promote a challenger that passed its shadow comparison, after a person's approval if the settings ask for it."""
    reason = str(comparison)
    if config.approval == "manual":
        propose(comparison.version, str(flow_run.id))
        reason = f"{wait_for_approval(comparison.version, reason)} ({reason})".strip()
    promote_from_shadow(comparison.version, comparison, rows, reason)


def decide(
    result: MonitoringResult, reference: Reference, labelled: pd.DataFrame, earlier: list[Record], **run: Any
) -> Record:
    """Apply the alert and retraining rules to a result, and return the record; `run` has its remaining fields."""
    crossed, table = thresholds.alerts(result), training_rows(reference, labelled)
    rows_before = max([len(reference.table), *(record.rows for record in earlier if record.trigger)])
    trigger, reason = thresholds.retraining(crossed, len(table), rows_before)
    compared: ShadowComparison | None = run["shadow"]
    passed = bool(compared and compared.passed)
    if compared and passed:
        trigger, reason = "", f"the challenger, version {compared.version}, was better in shadow deployment"
    folder = str(write_training_data(result.name, table)) if trigger else ""
    known = {alert.kind for alert in earlier[-1].alerts} if earlier else set()
    notify = bool(trigger or passed or {alert.kind for alert in crossed} - known)
    return Record(
        result, crossed, rows=len(table), trigger=trigger, reason=reason, training_data=folder, notify=notify, **run
    )


def act(config: Settings, record: Record, drifted: Drift | None) -> None:
    """Notify people, publish the report, request a retraining if there is a trigger, and save the record at the end."""
    sent = send_webhook.submit(alerts.payload(record)) if config.webhook and record.notify else None
    create_markdown_artifact(report(record), key="monitoring-report", description="What one monitoring run measured")
    if drifted:
        rows = drifted.columns.rename_axis("column").reset_index().to_dict("records")
        create_table_artifact(rows, key="drift", description="Each column compared with the reference")
    if record.result.slices:
        rows = [{"slice": name, **one} for name, one in record.result.slices.items()]
        create_table_artifact(rows, key="slices", description="Error by slice, on the newest labels")
    if record.alerts:
        alerts.publish(record)
    log.info("monitor   %s: %s", record.result.name, record.outcome)
    if record.trigger:
        request_retraining(config.registered_model, record.trigger, record.training_data, record.result.version)
    save_record(config, record)
    if sent and (state := sent.wait() or sent.state).is_failed():
        log.error("webhook   %s", state.message)
