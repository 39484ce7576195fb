"""Wait until the servers of `make up` listen, and say where: the worker needs Prefect, the reader the addresses."""

import sys
import time

from wine_quality.config import Settings, settings
from wine_quality.ports import listens

START_SECONDS = 300


def ports(config: Settings) -> dict[str, int]:
    """Return the port of each server by its name."""
    return {"Prefect": config.prefect_port, "MLflow": config.mlflow_port, "S3": config.s3_port}


def main() -> int:
    """Wait, print a line for each server, and return 0; or 1 where one does not come up."""
    waiting, deadline = ports(settings()), time.monotonic() + START_SECONDS
    while waiting and time.monotonic() < deadline:
        for name, port in list(waiting.items()):
            if listens(port):
                print(f"{name} is at http://127.0.0.1:{waiting.pop(name)}", flush=True)
        time.sleep(0.2)
    if waiting:
        print(f"error: {', '.join(waiting)} did not start in {START_SECONDS} s.", file=sys.stderr)
    return 1 if waiting else 0


if __name__ == "__main__":
    sys.exit(main())
