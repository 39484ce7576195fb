"""The gate's lock: one training run at a time compares, registers and promotes.

Runs of one home share a lock file. Runs on several machines, which share MLflow's server, don't, so they also take a
concurrency limit on the Prefect server that they share. `make deploy` creates it.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
from prefect.concurrency.sync import concurrency
from prefect.exceptions import ObjectNotFound

from wine_quality.config import Settings
from wine_quality.files import exclusive_lock

log = logging.getLogger("wine_quality.train")

LIMIT = "wine-gate"
LEASE_SECONDS = 60  # Prefect's minimum: if a holder dies, its slot is free after this time


@contextmanager
def gate_lock(config: Settings) -> Iterator[None]:
    """Hold the gate's lock for the block; if the holder dies, the lock is released."""
    with exclusive_lock(config.local / "registry.lock"):
        if is_shared(config) and not has_limit():
            log.warning(
                "gate      MLflow is shared, but Prefect's server has no limit %s, so runs on other machines don't "
                "wait for this one. Share a Prefect server, and run make deploy",
                LIMIT,
            )
        elsewhere = concurrency(LIMIT, lease_duration=LEASE_SECONDS) if is_shared(config) else nullcontext()
        with elsewhere:
            yield


def is_shared(config: Settings) -> bool:
    """Return whether other machines may use the same MLflow store."""
    return not config.mlflow_uri.startswith("sqlite:")


def has_limit() -> bool:
    """Return whether Prefect's server has the limit."""
    with get_client(sync_client=True) as client:
        try:
            client.read_global_concurrency_limit_by_name(LIMIT)
        except ObjectNotFound:
            return False
    return True


def make_limit() -> None:
    """Create the limit of one run at a time on Prefect's server, or leave an existing one unchanged."""
    if not has_limit():
        with get_client(sync_client=True) as client:
            client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=LIMIT, limit=1))
