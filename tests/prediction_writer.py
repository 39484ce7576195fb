"""A process that keeps predictions in a spool and prints the id of each that is acknowledged, one a line.

    python tests/prediction_writer.py SPOOL [COUNT]

The database is that of `WINE_PREDICTIONS`. Without a count it goes on until it is killed.
"""

import sys
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from uuid import uuid4

from wine_quality import predictions
from wine_quality.config import settings
from wine_quality.schema import FEATURES

WINE = {"type": "red", **dict.fromkeys(FEATURES[1:], 5.25)}


def made(number: int) -> list[predictions.Prediction]:
    """Return so many predictions of one wine."""
    now = datetime.now(UTC)
    return [predictions.Prediction(str(uuid4()), now, "1", WINE, 5.5) for _ in range(number)]


def keep_on(spool: Path, requests: int | None) -> None:
    """Keep one to three predictions a request, and ship as often as can be."""
    predictions.SHIP_SECONDS = 0.01
    keeper = predictions.Predictions(spool, settings().predictions_uri)
    for request in count() if requests is None else range(requests):
        kept = made(request % 3 + 1)
        if keeper.keep(kept):
            print(*(prediction.id for prediction in kept), sep="\n", flush=True)
    keeper.close()


if __name__ == "__main__":
    keep_on(Path(sys.argv[1]), int(sys.argv[2]) if sys.argv[2:] else None)
