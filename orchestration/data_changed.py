"""Check whether the data has changed since a model was last trained on it, and if so, send Prefect an event.

The event `wine.data.changed` starts the deployment `on-new-data`. Run this with `python -m orchestration.data_changed`,
after new data has arrived.
"""

import sys

from prefect.events import emit_event
from prefect.settings import PREFECT_API_URL

from orchestration.startup import connect_quietly, prepare_home
from wine_quality import registry, sources, tracking
from wine_quality.command import exit_code
from wine_quality.errors import DeploymentError
from wine_quality.registry import DISTINCT_ROWS, INPUTS
from wine_quality.splits import distinct_rows

EVENT, RESOURCE = "wine.data.changed", "wine.data"


def main() -> None:
    """Emit the event, unless a version was trained on the same distinct rows: duplicates change no model."""
    prepare_home()
    if not PREFECT_API_URL.value():
        raise DeploymentError("Prefect isn't running, so the event would be lost. Start it: make up.")
    config = connect_quietly()
    dataset = sources.load_dataset(config)
    checksum = sources.table_checksum(distinct_rows(dataset.table))
    with tracking.store(config) as store:
        versions = registry.versions_tagged(store, DISTINCT_ROWS, checksum)
    if any(INPUTS in version.tags for version in versions):  # else a run was stopped before it had published all
        print(f"unchanged {len(dataset.table):,} rows, and a version was trained on their distinct rows: {dataset.why}")
    else:
        emit_event(EVENT, {"prefect.resource.id": RESOURCE}, payload={"data": config.data, "sha256": checksum})
        print(f"event     {EVENT}: {len(dataset.table):,} rows: {dataset.why}")


if __name__ == "__main__":
    sys.exit(exit_code(main))
