"""Run a flow as a command that prints the flow's own log lines and none of Prefect's.

A flow is named by its module and its name, as in `python -m orchestration.run orchestration.train:train_wine_quality`,
which is `make run`. Prefect's temporary server starts while the module is imported, because each takes seconds.
"""

import sys
from pkgutil import resolve_name

from orchestration.prefect_server import start_connecting
from orchestration.startup import log_to_screen, prepare_quietly
from wine_quality.command import exit_code


def main() -> None:
    """Run the flow that the command names."""
    prepare_quietly()
    wait = start_connecting()
    flow = resolve_name(sys.argv[1])
    wait()
    log_to_screen()
    flow()


if __name__ == "__main__":
    sys.exit(exit_code(main))
