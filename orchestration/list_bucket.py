"""Look into the bucket: list its runs, download each, and check it against its manifest. Run it with `make bucket`."""

import sys
import tempfile
from pathlib import Path
from typing import Any

from orchestration.artifacts import connect_quietly
from orchestration.bucket import bucket_line, wine_bucket
from orchestration.startup import prepare_home
from wine_quality import storage
from wine_quality.command import exit_code
from wine_quality.config import settings
from wine_quality.errors import StorageError


def state_of(bucket: Any, run_id: str, files: dict[str, int]) -> str:
    """Return what is known of a run once its files were downloaded and compared with their sums."""
    if storage.MANIFEST not in files:
        return "not complete: it has no manifest, its push or its deletion was cut short"
    with tempfile.TemporaryDirectory() as folder:
        try:
            return f"{len(storage.pull(bucket, run_id, Path(folder)))} files as they were pushed"
        except StorageError as error:
            return f"broken: {error}"


def main() -> int:
    """Print a line for each run, the oldest first, and return 1 if one is not as it was pushed."""
    prepare_home()
    connect_quietly()
    config = settings()
    print(f"bucket    {bucket_line(config)}")
    with wine_bucket(config) as (bucket, _):
        states = {}
        for run_id, files in storage.runs(bucket).items():
            states[run_id] = state_of(bucket, run_id, files)
            print(f"runs/{run_id}  {sum(files.values()) / 1e6:5.1f} MB  {', '.join(sorted(files))}: {states[run_id]}")
    print(f"{len(states)} run(s)")
    if spoilt := [run_id for run_id, state in states.items() if state.startswith(("broken", "not complete"))]:
        print(f"push again what MLflow still has: make push RUN={spoilt[0]}")
    return int(bool(spoilt))


if __name__ == "__main__":
    sys.exit(exit_code(main))
