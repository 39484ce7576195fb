"""Shadow deployment: the challenger scores the champion's requests for comparison, and its scores are never returned.

It's a separate process with the lowest priority, which reads the stored predictions from their database. So no response
waits for it, and it misses none if it falls behind. `make serve` starts it, unless `WINE_SHADOW` is off;
`wine_quality.shadow` compares the versions, and chapter 5 acts on the result.
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

LOWEST = 19  # priority, as a nice value
ROWS = 1_000  # scored at once
SECONDS = 2.0  # between two checks if there's nothing to score


class Shadow:
    """Scores with the version that has the alias `challenger`; `scorer` is None if there is none."""

    def __init__(self, config: Settings) -> None:
        self.config, self.database = config, Database(config.predictions_uri)
        self.scorer: Scorer | None = None
        self.outage = Outage("shadow")

    def run(self, seconds: float = SECONDS) -> None:
        """Score forever, idle at least half of the time, and retry after an error."""
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
        if champion is None or challenger is None or champion.version == challenger.version:
            self.scorer = None
            return 0
        if self.scorer is None or self.scorer.run_id != challenger.run_id:
            self.scorer = load_scorer(self.config, challenger)
            log.info("shadow    %s version %s, engine: %s", challenger.name, challenger.version, self.scorer.engine)
        since, versions = registry.registered_at(challenger), (str(champion.version), self.scorer.version)
        rows = shadow.unscored(self.config.predictions_uri, *versions, since, ROWS)
        if len(rows):
            scores = self.scorer.score(to_matrix(rows)).tolist()
            shadow.insert(self.database, self.scorer.version, dict(zip(rows["id"], scores, strict=True)))
        return len(rows)


def main() -> None:
    """Score in the shadow until this process is stopped."""
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%Y-%m-%d %H:%M:%S")
    os.nice(LOWEST)
    Shadow(settings()).run()


if __name__ == "__main__":
    main()
