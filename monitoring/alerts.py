"""Notify people by a log line and a Prefect artifact for every alert, and by a webhook if one is set.

The webhook is called only for new kinds of alerts, because people stop reading alerts that repeat every week.
"""

import logging
from dataclasses import asdict

import httpx
from prefect import task
from prefect.artifacts import create_markdown_artifact
from prefect.tasks import exponential_backoff

from monitoring.records import Record
from orchestration.policies import UNCACHED
from wine_quality.config import settings
from wine_quality.errors import AlertError
from wine_quality.templates import render

TIMEOUT = 3.0  # seconds to wait for a webhook's response

log = logging.getLogger("wine_quality.monitor")


def publish(record: Record) -> None:
    """Log the alerts of a monitoring run and publish them as an artifact."""
    for alert in record.alerts:
        log.warning("%-9s %s", alert.kind, alert.message)
    text = render("alert.md.j2", record=record)
    create_markdown_artifact(text, key="alert", description="The thresholds that were crossed, and the outcome")


def payload(record: Record) -> dict[str, object]:
    """Return the JSON for a webhook: `text` for chat apps, and the alerts as data for other programs."""
    lines = [f"wine-quality, {record.result.name}", *map(str, record.alerts), f"Outcome: {record.outcome}."]
    return {
        "text": "\n".join(lines),
        "name": record.result.name,
        "version": record.result.version,
        "alerts": [asdict(alert) for alert in record.alerts],
        "trigger": record.trigger,
    }


@task(
    name="send webhook",
    task_run_name="send webhook",
    retries=3,
    retry_delay_seconds=exponential_backoff(backoff_factor=1),
    **UNCACHED,
)
def send_webhook(content: dict[str, object]) -> None:
    """Post JSON to `WINE_WEBHOOK`. The URL may contain a secret, so it isn't a parameter and no error shows it."""
    try:
        httpx.post(settings().webhook.get_secret_value(), json=content, timeout=TIMEOUT).raise_for_status()
    except httpx.HTTPStatusError as error:
        raise AlertError(f"the webhook answered {error.response.status_code}. Check WINE_WEBHOOK.") from None
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise AlertError(f"the webhook didn't answer ({type(error).__name__}). Check WINE_WEBHOOK.") from None
