"""List the runs in the bucket, download each, and check it against its manifest. Run it with `make bucket`."""

import sys
import tempfile
from pathlib import Path

from orchestration.bucket import bucket_line, wine_bucket
from orchestration.startup import connect_quietly
from wine_quality import storage
from wine_quality.command import exit_code
from wine_quality.errors import StorageError
from wine_quality.storage import Bucket


def check(bucket: Bucket, run_id: str, files: dict[str, int]) -> tuple[bool, str]:
    """Download a run and compare it with its manifest; return whether they match, and what to print."""
    if storage.MANIFEST not in files:
        return False, "incomplete: no manifest, because its push or deletion was interrupted"
    with tempfile.TemporaryDirectory() as folder:
        try:
            return True, f"{len(storage.pull(bucket, run_id, Path(folder)))} files match their manifest"
        except StorageError as error:
            return False, f"broken: {error}"


def main() -> int:
    """Print a line for each run, the oldest first, and return 1 if one is damaged or incomplete."""
    config, broken = connect_quietly(), []
    print(f"bucket    {bucket_line(config)}")
    with wine_bucket(config) as (bucket, _):
        runs = storage.runs(bucket)
        for run_id, files in runs.items():
            whole, state = check(bucket, run_id, files)
            print(f"runs/{run_id}  {sum(files.values()) / 1e6:5.1f} MB  {', '.join(sorted(files))}: {state}")
            if not whole:
                broken.append(run_id)
    print(f"{len(runs)} run(s)")
    if broken:
        print(f"to push a run again from MLflow: make push RUN={broken[0]}")
    return int(bool(broken))


if __name__ == "__main__":
    sys.exit(exit_code(main))
