"""A process that stores predictions and prints the id of each that is acknowledged, one a line.

    python tests/prediction_writer.py QUEUE [COUNT]

The database is that of `WINE_PREDICTIONS`. Without a count it goes on until it is killed.
"""

import sys
from contextlib import closing
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from uuid import uuid4

from wine_quality.config import settings
from wine_quality.predictions import Prediction, PredictionStore
from wine_quality.schema import FEATURES

WINE = {"type": "red", **dict.fromkeys(FEATURES[1:], 5.25)}


def new_predictions(number: int) -> list[Prediction]:
    now = datetime.now(UTC)
    return [Prediction(str(uuid4()), now, "1", WINE, 5.5) for _ in range(number)]


def write(folder: Path, requests: int | None) -> None:
    """Store one to three predictions a request, and flush as often as possible."""
    with closing(PredictionStore(folder, settings().predictions_uri, flush_seconds=0.01)) as store:
        for request in count() if requests is None else range(requests):
            predictions = new_predictions(request % 3 + 1)
            if store.add(predictions):
                print(*(prediction.id for prediction in predictions), sep="\n", flush=True)


if __name__ == "__main__":
    write(Path(sys.argv[1]), int(sys.argv[2]) if sys.argv[2:] else None)
