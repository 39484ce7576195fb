"""Look whether the wine has changed since a model was last trained on it, and tell Prefect with an event.

The event `wine.data.changed` starts the deployment `on-new-wine`. Run this with `python -m orchestration.data_changed`,
after wine has come in.
"""

import sys

from prefect.events import emit_event
from prefect.settings import PREFECT_API_URL

from orchestration.artifacts import connect_quietly
from orchestration.startup import prepare_home
from wine_quality import registry, sources, tracking
from wine_quality.command import exit_code
from wine_quality.config import Settings, settings
from wine_quality.errors import DeploymentError
from wine_quality.registry import DISTINCT_ROWS
from wine_quality.splits import distinct_rows

EVENT, RESOURCE = "wine.data.changed", "wine.data"


def trained_before(config: Settings, checksum: str) -> bool:
    """Say whether a version of the model was trained on the distinct rows with a checksum."""
    with tracking.store(config) as store:
        return bool(registry.versions_tagged(store, DISTINCT_ROWS, checksum))


def main() -> None:
    """Emit the event where the wine is new."""
    prepare_home()
    if not PREFECT_API_URL.value():
        raise DeploymentError("Prefect does not run, so nobody would hear the event. Start it: make up.")
    connect_quietly()
    config = settings()
    wine = sources.load_dataset(config)
    checksum = sources.table_checksum(distinct_rows(wine.table))  # rows that repeat others change no model
    if trained_before(config, checksum):
        print(f"unchanged {len(wine.table):,} rows, on whose distinct ones a version was trained before: {wine.why}")
        return
    emit_event(EVENT, {"prefect.resource.id": RESOURCE}, payload={"data": config.data, "sha256": checksum})
    print(f"event     {EVENT}: {len(wine.table):,} rows: {wine.why}")


if __name__ == "__main__":
    sys.exit(exit_code(main))
