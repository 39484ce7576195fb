"""The challenger in the shadow of the champion: it scores what was answered, for comparison, and is never served.

It is a process of its own beside the service, at the lowest priority, and takes the stored predictions from their
database. So an answer never waits for it, and nothing is lost where it falls behind. `make serve` starts it, unless
`WINE_SHADOW` is off; `wine_quality.shadow` has the comparison, and chapter 5 acts on it.
"""

import logging
import os
import time

from sqlalchemy.exc import SQLAlchemyError

from wine_quality import registry, shadow, tracking
from wine_quality.config import Settings, settings
from wine_quality.disk_queue import Outage
from wine_quality.errors import WineError
from wine_quality.predictions import Database
from wine_quality.schema import to_matrix
from wine_quality.scoring import Scorer, load_scorer

log = logging.getLogger("wine_quality.shadow")

LOWEST = 19  # priority, as `nice` has it
ROWS = 1_000  # that are scored at once
SECONDS = 2.0  # between two looks where nothing is to be done


class Shadow:
    """Follows the alias `challenger`; `scorer` is its version, None if there is none."""

    def __init__(self, config: Settings) -> None:
        self.config, self.database = config, Database(config.predictions_uri)
        self.scorer: Scorer | None = None
        self.outage = Outage("shadow")

    def run(self, seconds: float = SECONDS) -> None:
        """Score for ever, at most half of the time; what fails is tried again."""
        while True:
            started = time.monotonic()
            try:
                scored = self.step()
                self.outage.end()
            except (WineError, SQLAlchemyError) as error:
                self.outage.begin(str(error))
                scored = 0
            time.sleep(max(time.monotonic() - started, 0 if scored else seconds))

    def step(self) -> int:
        """Score the oldest rows that the champion scored since the challenger was registered; return how many."""
        with tracking.existing_store(self.config) as store:
            champion, challenger = registry.champion(store), registry.challenger(store)
        if champion is None or challenger is None:
            self.scorer = None
            return 0
        if self.scorer is None or self.scorer.run_id != challenger.run_id:
            self.scorer = load_scorer(self.config, challenger)
            log.info("shadow    %s version %s, by %s", challenger.name, challenger.version, self.scorer.engine)
        since, versions = registry.registered_at(challenger), (str(champion.version), self.scorer.version)
        rows = shadow.unscored(self.config.predictions_uri, *versions, since, ROWS)
        if len(rows):
            scores = self.scorer.score(to_matrix(rows)).tolist()
            shadow.insert(self.database, self.scorer.version, dict(zip(rows["id"], scores, strict=True)))
        return len(rows)


def main() -> None:
    """Score in the shadow until this process is ended."""
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%Y-%m-%d %H:%M:%S")
    os.nice(LOWEST)
    Shadow(settings()).run()


if __name__ == "__main__":
    main()
