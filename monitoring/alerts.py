"""Tell people: a line in the log and an artifact in Prefect always, a webhook where one is set.

The webhook is for people who do other things meanwhile: it gets what is new, not the same line every week.
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

TIMEOUT = 3.0  # seconds that a webhook has to answer

log = logging.getLogger("wine_quality.watch")


def tell(record: Record) -> None:
    """Write what is wrong into the log, and leave it as an artifact."""
    for finding in record.findings:
        log.warning("%-9s %s", finding.kind, finding.line)
    lines = [f"- **{finding.kind}**: {finding.line}" for finding in record.findings]
    text = "\n".join([f"# {record.reading.name}", "", *lines, "", f"What follows: {what_follows(record)}."])
    create_markdown_artifact(text, key="alert", description="What is beyond a limit, and what follows")


def what_follows(record: Record) -> str:
    """Say what follows from a record."""
    return f"a new model is asked for ({record.why})" if record.event else f"nothing is trained ({record.why})"


def message(record: Record) -> dict[str, object]:
    """Return what a webhook is sent: `text`, as chat programs take it, and the findings for programs."""
    lines = map(str, record.findings)
    return {
        "text": "\n".join([f"wine-quality, {record.reading.name}", *lines, f"What follows: {what_follows(record)}."]),
        "name": record.reading.name,
        "version": record.reading.version,
        "findings": [asdict(finding) for finding in record.findings],
        "event": record.event,
    }


@task(
    name="webhook",
    task_run_name="webhook",
    retries=3,
    retry_delay_seconds=exponential_backoff(backoff_factor=1),
    **UNCACHED,
)
def webhook(told: dict[str, object]) -> None:
    """Send an alert to `WINE_WEBHOOK`. The address may contain a secret, so no parameter and no error shows it.

    Raises
    ------
    AlertError
        Nobody takes it.
    """
    try:
        httpx.post(settings().webhook.get_secret_value(), json=told, timeout=TIMEOUT).raise_for_status()
    except httpx.HTTPStatusError as error:
        raise AlertError(f"the webhook answered {error.response.status_code}. Mend WINE_WEBHOOK.") from None
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise AlertError(f"the webhook does not answer ({type(error).__name__}). Mend WINE_WEBHOOK.") from None
