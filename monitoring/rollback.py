"""Roll back to the previous champion if promoting the current one was a mistake.

The alias `champion` moves back, and the service loads that version within ten seconds. Run it with
`python -m monitoring.rollback` or `make rollback`.
"""

import sys

from wine_quality import registry, tracking
from wine_quality.command import exit_code
from wine_quality.config import settings


def main() -> None:
    """Roll back, and print which version is champion now and which was before."""
    config = settings()
    with tracking.store(config) as store:
        before = registry.champion(store)
        now = registry.rollback(store)
    assert before, "a rollback without a champion raises an error"
    print(f"rollback  {config.registered_model}: version {now} is champion again, in place of version {before.version}")


if __name__ == "__main__":
    sys.exit(exit_code(main))
