"""Deploy the flow from one file, without a work pool or `prefect.yaml`; this process starts the runs until Ctrl-C.

Run it with `python -m orchestration.serve` beside `make up`.
"""

import sys

from orchestration.prefect_server import connect
from orchestration.startup import prepare_home
from orchestration.train import train_wine_quality
from wine_quality.command import exit_code


def main() -> None:
    """Serve the flow."""
    prepare_home()
    connect()
    train_wine_quality.serve(name="one-file", cron="0 4 * * *", parameters={"max_evals": 6}, limit=1)


if __name__ == "__main__":
    sys.exit(exit_code(main))
