"""Give the alias `champion` back to the version that had it before, if a new champion turns out to be a mistake.

The service loads it within ten seconds. Run it with `python -m monitoring.rollback`, or `make rollback`.
"""

import sys

from wine_quality import registry, tracking
from wine_quality.command import exit_code
from wine_quality.config import settings


def main() -> None:
    """Roll back, and print from which version to which."""
    config = settings()
    with tracking.store(config) as store:
        before = registry.champion(store)
        now = registry.rollback(store)
    assert before, "else the rollback has failed"
    print(f"rollback  {config.registered_model}: version {now} is champion again, version {before.version} was")


if __name__ == "__main__":
    sys.exit(exit_code(main))
