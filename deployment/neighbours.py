"""The rows that were logged with a version, to compare a wine with: ranges, nearest rows, curves over the ranges."""

import tempfile
from typing import Annotated

import numpy as np
import pandas as pd
from mlflow.entities.model_registry import ModelVersion
from pydantic import Field
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler
from typing_extensions import TypedDict

from deployment import schemas
from deployment.schemas import Wine
from wine_quality import tracking
from wine_quality.config import Settings
from wine_quality.schema import MEASUREMENTS, TARGET, to_matrix
from wine_quality.scoring import Scorer, fetch_file
from wine_quality.splits import distinct_rows
from wine_quality.tables import read_back
from wine_quality.tracking import ROWS_FILE, SOURCE

NEAREST = 5
POINTS = 16  # of a curve: a forest has steps, and more points would only show these
USUAL = [0.01, 0.5, 0.99]


class Range(TypedDict):
    """Where a measurement usually lies, all in its unit and at steps that suit it."""

    name: str
    unit: str
    low: Annotated[float, Field(description="Of a hundred wines, one is below.")]
    median: float
    high: Annotated[float, Field(description="Of a hundred wines, one is above.")]
    step: float


class Ranges(TypedDict):
    """How the features are distributed in the dataset."""

    wines: Annotated[int, Field(description="How many there are, each once.")]
    made_up: Annotated[bool, Field(description="Whether these are the sample, which is no real wine.")]
    ranges: list[Range]


class Difference(TypedDict):
    """The measurement in which two wines differ most, each measured in how wines vary in it."""

    name: str
    unit: str
    value: float
    asked: float | None


class Neighbour(TypedDict):
    """A wine that was tasted, close to the one that was asked about."""

    type: str
    quality: Annotated[int, Field(description="What the tasters gave it, 0 to 10.")]
    distance: Annotated[float, Field(description="Over all measurements, in standard deviations.")]
    differs_most: Difference


class Neighbours(TypedDict):
    """The nearest wines, the nearest first."""

    made_up: bool
    nearest: list[Neighbour]


class Curve(TypedDict):
    """The scores of a wine as it would be with other values of one measurement."""

    name: str
    values: list[float]
    scores: list[float]


class Curves(TypedDict):
    """A curve for each measurement, all other measurements as they are, over its usual range."""

    version: str
    curves: list[Curve]


class RowIndex:
    """Distinct, fully measured rows, indexed by their standardised type and measurements; `made_up` if synthetic."""

    def __init__(self, table: pd.DataFrame, made_up: bool) -> None:
        self.wines = distinct_rows(table).dropna().reset_index(drop=True)
        self.made_up = made_up
        points = to_matrix(self.wines)
        self.scaler = StandardScaler().fit(points)
        self.places = self.scaler.transform(points)
        self.index = NearestNeighbors(n_neighbors=min(NEAREST, len(points))).fit(self.places)

    def ranges(self) -> Ranges:
        """Return within which limits 98 of 100 wines lie."""
        shares = self.wines[list(MEASUREMENTS)].quantile(USUAL)
        ranges = [usual_range(name, *map(float, shares[name])) for name in MEASUREMENTS]
        return {"wines": len(self.wines), "made_up": self.made_up, "ranges": ranges}

    def curves(self, wine: Wine, scorer: Scorer) -> Curves:
        """Return how a wine's score would move with each measurement."""
        grids = {one["name"]: np.linspace(one["low"], one["high"], POINTS) for one in self.ranges()["ranges"]}
        rows = np.repeat(schemas.to_matrix([wine]), POINTS * len(grids), axis=0)
        for number, grid in enumerate(grids.values()):
            rows[number * POINTS : (number + 1) * POINTS, 1 + number] = grid
        scores = scorer.score(rows).reshape(len(grids), POINTS).tolist()
        curves = [
            Curve(name=name, values=grid.tolist(), scores=line)
            for (name, grid), line in zip(grids.items(), scores, strict=True)
        ]
        return {"version": scorer.version, "curves": curves}

    def nearest(self, wine: Wine) -> Neighbours:
        """Return the rows nearest to a wine; a blank of the wine counts as the mean."""
        place = np.nan_to_num(self.scaler.transform(schemas.to_matrix([wine])))
        distances, rows = self.index.kneighbors(place)
        pairs = zip(rows[0], distances[0], strict=True)
        nearest = [self.neighbour(row, float(distance), wine, place) for row, distance in pairs]
        return {"made_up": self.made_up, "nearest": nearest}

    def neighbour(self, row: int, distance: float, wine: Wine, place: np.ndarray) -> Neighbour:
        """Return one of the nearest, and in what it differs most."""
        near = self.wines.loc[row]
        name = list(MEASUREMENTS)[np.abs(self.places[row] - place[0])[1:].argmax()]
        difference = Difference(name=name, unit=MEASUREMENTS[name].unit, value=float(near[name]), asked=wine[name])
        quality = int(near[TARGET])
        return Neighbour(type=near["type"], quality=quality, distance=distance, differs_most=difference)


def load_rows(config: Settings, version: ModelVersion) -> RowIndex:
    """Load the rows that were logged with the run behind a version; raise a `RegistryError` if there are none."""
    with tracking.store(config) as store, tempfile.TemporaryDirectory() as folder:
        run = store.run_of(version)
        table = read_back(fetch_file(store, version, str(run.info.artifact_uri), ROWS_FILE, folder))
    return RowIndex(table, run.data.tags.get(SOURCE) == "sample")


def usual_range(name: str, low: float, median: float, high: float) -> Range:
    """Return a range at round steps, some 30 to 300 of them from end to end."""
    digits = int(np.ceil(1.5 - np.log10(high - low or 1)))
    low, median, high = (round(value, digits) for value in (low, median, high))
    step = round(10.0**-digits, max(digits, 0))
    return Range(name=name, unit=MEASUREMENTS[name].unit, low=low, median=median, high=high, step=step)
