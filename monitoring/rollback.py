"""Give the alias `champion` back to the version that had it before, if a new champion turns out to be a mistake.

The service loads it within ten seconds. Run it with `python -m monitoring.rollback`, or `make rollback`.
"""

import sys

from wine_quality import registry, tracking
from wine_quality.command import exit_code
from wine_quality.config import Settings, settings


def roll_back(config: Settings) -> None:
    """Roll back, and print from which version to which."""
    with tracking.store(config) as store:
        before = registry.champion(store)
        now = registry.rollback(store)
    print(f"rollback  {config.registered_model}: version {now} is champion again, version {before.version} was")


if __name__ == "__main__":
    sys.exit(exit_code(lambda: roll_back(settings())))
