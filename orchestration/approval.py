"""A person's approval before a promotion, if `WINE_APPROVAL=manual`.

The training run pauses at its end, and Prefect's page shows the model card. If you resume the run, the version is
promoted; if you cancel it or let the time run out, it is rejected. The registry isn't locked in the meantime, so
other runs can go on.
"""

import logging
from typing import Any

import pandas as pd
from prefect import pause_flow_run, task
from prefect.exceptions import FlowPauseTimeout
from prefect.input import RunInput
from pydantic import Field

from orchestration.gate import gate_lock
from orchestration.policies import RETRY_TRANSIENT
from wine_quality import registry, scoring, tracking
from wine_quality.config import settings
from wine_quality.errors import RegistryError

log = logging.getLogger("wine_quality.train")

POLL = 2  # seconds


class Approval(RunInput):
    """What an approver may enter. Resuming the run approves the version."""

    reason: str = Field(default="", max_length=200, description="The reason, for the description of the version.")


@task(name="propose", task_run_name="propose version {version}", **RETRY_TRANSIENT)
def propose(version: str, run_id: str) -> None:
    """Record that a version waits for approval in the flow run that trained it."""
    with tracking.store(settings()) as store:
        registry.await_approval(store, version, run_id)
    log.info("approve   version %s is waiting for approval: resume this run in Prefect to promote it", version)


def wait_for_approval(version: str, card: str) -> str:
    """Pause the flow run until a person resumes it, and return the reason given; raise `RegistryError` if none does."""
    seconds = settings().approval_seconds
    try:
        form = Approval.with_initial_data(description=card)
        answer: Any = pause_flow_run(wait_for_input=form, timeout=seconds, poll_interval=POLL)
    except FlowPauseTimeout:
        reject(version, f"nobody approved it within {seconds} seconds", decided=False)
        raise RegistryError(
            f"version {version} was not approved within {seconds} seconds, so it stays a challenger. Train again, or "
            "give it the alias champion in MLflow."
        ) from None
    return answer.reason


def promote_if_unchanged(version: str, rows: pd.DataFrame, opponent: str | None, reason: str) -> None:
    """Promote a version with its graph, unless the champion has changed from `opponent`; `rows` check the graph."""
    with gate_lock(settings()), tracking.store(settings()) as store:
        try:
            scoring.log_graph(store, version, rows)
            registry.promote_approved(store, version, opponent, reason)
        except RegistryError as error:
            registry.end_approval(store, version, f"rejected: {error}".rstrip("."), decided=False)
            raise


def reject(version: str, why: str, decided: bool = True) -> None:
    """Record that a version was not approved; `decided` is whether a person decided that."""
    with gate_lock(settings()), tracking.store(settings()) as store:
        registry.end_approval(store, version, f"rejected: {why}", decided)


def reject_cancelled(flow: Any, flow_run: Any, state: Any) -> None:
    """Reject the version that waits for the approval of a flow run that was cancelled, if there is one."""
    with tracking.store(settings()) as store:
        waiting = registry.awaiting(store, str(flow_run.id))
    for version in waiting:
        reject(version, "the run that requested approval was cancelled")
