"""Compare a sample with the rows logged with a version: their ranges, the nearest rows, and curves over the ranges."""

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
from deployment.schemas import Sample
from wine_quality import tracking
from wine_quality.config import Settings
from wine_quality.schema import MEASUREMENTS, TARGET, to_matrix
from wine_quality.scoring import Scorer, fetch_file
from wine_quality.splits import distinct_rows
from wine_quality.tables import read_back
from wine_quality.tracking import ROWS_FILE, SOURCE

NEAREST = 5
POINTS = 16  # per curve: a forest is a step function, and more points would only show its steps
QUANTILES = [0.01, 0.5, 0.99]


class Range(TypedDict):
    """The typical range of a measurement, in its unit, with a step size that suits a slider."""

    name: str
    unit: str
    low: Annotated[float, Field(description="The 1st percentile.")]
    median: float
    high: Annotated[float, Field(description="The 99th percentile.")]
    step: float


class Ranges(TypedDict):
    """How the measurements are distributed in the champion's dataset."""

    rows: Annotated[int, Field(description="The number of distinct rows.")]
    synthetic: Annotated[bool, Field(description="Whether the dataset is the synthetic sample.")]
    ranges: list[Range]


class Difference(TypedDict):
    """The measurement in which a row and the sample differ most, in standard deviations."""

    name: str
    unit: str
    value: Annotated[float, Field(description="The value of the row.")]
    requested: Annotated[float | None, Field(description="The value of the sample.")]


class Neighbour(TypedDict):
    """A labelled row that is similar to the sample."""

    type: str
    quality: Annotated[int, Field(description="The label: the quality that tasters gave, 0 to 10.")]
    distance: Annotated[float, Field(description="The Euclidean distance, in standard deviations.")]
    differs_most: Difference


class Neighbours(TypedDict):
    """The nearest rows, sorted by distance."""

    synthetic: bool
    nearest: list[Neighbour]


class Curve(TypedDict):
    """The score of a sample for different values of one measurement."""

    name: str
    values: list[float]
    scores: list[float]


class Curves(TypedDict):
    """A curve for each measurement over its typical range, with the other measurements unchanged."""

    version: str
    curves: list[Curve]


class RowIndex:
    """Distinct rows without blanks, indexed by standardised features; `synthetic` if they are those of the sample."""

    def __init__(self, table: pd.DataFrame, synthetic: bool) -> None:
        self.rows = distinct_rows(table).dropna().reset_index(drop=True)
        self.synthetic = synthetic
        matrix = to_matrix(self.rows)
        self.scaler = StandardScaler().fit(matrix)
        self.points = self.scaler.transform(matrix)
        self.index = NearestNeighbors(n_neighbors=min(NEAREST, len(matrix))).fit(self.points)

    def ranges(self) -> Ranges:
        """Return the range from the 1st to the 99th percentile of each measurement."""
        quantiles = self.rows[list(MEASUREMENTS)].quantile(QUANTILES)
        ranges = [rounded_range(name, *map(float, quantiles[name])) for name in MEASUREMENTS]
        return {"rows": len(self.rows), "synthetic": self.synthetic, "ranges": ranges}

    def curves(self, sample: Sample, scorer: Scorer) -> Curves:
        """Return how a sample's score would change with each measurement."""
        grids = {one["name"]: np.linspace(one["low"], one["high"], POINTS) for one in self.ranges()["ranges"]}
        rows = np.repeat(schemas.to_matrix([sample]), POINTS * len(grids), axis=0)
        for number, grid in enumerate(grids.values()):
            rows[number * POINTS : (number + 1) * POINTS, 1 + number] = grid
        scores = scorer.score(rows).reshape(len(grids), POINTS).tolist()
        curves = [
            Curve(name=name, values=grid.tolist(), scores=line)
            for (name, grid), line in zip(grids.items(), scores, strict=True)
        ]
        return {"version": scorer.version, "curves": curves}

    def nearest(self, sample: Sample) -> Neighbours:
        """Return the rows nearest to a sample; a blank in the sample counts as the mean."""
        point = np.nan_to_num(self.scaler.transform(schemas.to_matrix([sample])))
        distances, rows = self.index.kneighbors(point)
        pairs = zip(rows[0], distances[0], strict=True)
        nearest = [self.neighbour(row, float(distance), sample, point) for row, distance in pairs]
        return {"synthetic": self.synthetic, "nearest": nearest}

    def neighbour(self, number: int, distance: float, sample: Sample, point: np.ndarray) -> Neighbour:
        """Return a row by its number, and the measurement in which it differs most from the sample."""
        row = self.rows.loc[number]
        name = list(MEASUREMENTS)[np.abs(self.points[number] - point[0])[1:].argmax()]
        unit, value = MEASUREMENTS[name].unit, float(row[name])
        difference = Difference(name=name, unit=unit, value=value, requested=sample[name])
        return Neighbour(type=row["type"], quality=int(row[TARGET]), distance=distance, differs_most=difference)


def load_rows(config: Settings, version: ModelVersion) -> RowIndex:
    """Load the rows that were logged with a version's run; raise a `RegistryError` if there are none."""
    with tracking.store(config) as store, tempfile.TemporaryDirectory() as folder:
        run = store.run_of(version)
        table = read_back(fetch_file(store, version, str(run.info.artifact_uri), ROWS_FILE, folder))
    return RowIndex(table, run.data.tags.get(SOURCE) == "sample")


def rounded_range(name: str, low: float, median: float, high: float) -> Range:
    """Return a range rounded to a step that divides it into some 30 to 300 parts."""
    digits = int(np.ceil(1.5 - np.log10(high - low or 1)))
    low, median, high = (round(value, digits) for value in (low, median, high))
    step = round(10.0**-digits, max(digits, 0))
    return Range(name=name, unit=MEASUREMENTS[name].unit, low=low, median=median, high=high, step=step)
