"""Request and response models, and the validation of requests.

The ranges come from `wine_quality.schema`. The response to a rejected request lists up to ten problems, each with the
sample, the field, the value and what is allowed.
"""

import json
from datetime import datetime
from math import isnan
from operator import itemgetter
from typing import TYPE_CHECKING, Annotated, Any, Literal, NotRequired

import numpy as np
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails, to_json
from typing_extensions import TypedDict

from wine_quality.schema import FEATURES, MEASUREMENTS, SHOWN_PROBLEMS, TYPE, TYPES, Measurement

MAX_ROWS = 5_000
VALIDATION_BATCH = 100  # samples validated at once; between two batches, other requests get their turn
MAX_PROBLEMS = 2_000  # per batch; a body with more isn't a list of samples
MAX_SHOWN = 40  # characters of a value or a name


class RequestError(Exception):
    """A request that cannot be answered: the HTTP status, and one line for each problem."""

    def __init__(self, status: int, *problems: str) -> None:
        super().__init__(problems[0])
        self.status = status
        self.problems = problems[:SHOWN_PROBLEMS]

    def body(self) -> bytes:
        """Return the body of the response, an `ErrorResponse`."""
        return to_json({"error": self.problems[0], "problems": self.problems})


class ErrorResponse(TypedDict):
    """The response to a rejected request: the first problem, and a list of up to ten."""

    error: str
    problems: list[str]


class Score(TypedDict):
    """The score of a sample, its 90 % interval (null if the version has none), and the score as a whole number."""

    score: float
    low: float | None
    high: float | None
    quality: int


class ScoredRow(Score):
    """The score of a sample, with the id of its prediction."""

    id: Annotated[str, Field(description="The id of the stored prediction.")]


class VersionInfo(TypedDict):
    """The model version, and whether the predictions are stored."""

    version: str
    stored: bool


class PredictionResponse(ScoredRow, VersionInfo):
    """The response to one sample."""


class PredictionsResponse(VersionInfo):
    """The response to a list of samples, in the same order."""

    predictions: list[ScoredRow]


class PreviewResponse(Score, VersionInfo):
    """The response of `/preview`: the prediction isn't stored and has no id."""


class Readiness(TypedDict):
    """Whether the service can score: green; amber if an older version is still serving; red if there is none."""

    status: Literal["green", "amber", "red"]
    reason: NotRequired[str]


class CategoryColumn(TypedDict):
    """A categorical input column of the model."""

    name: str
    values: list[str]


class NumberColumn(TypedDict):
    """A numeric input column of the model; null is allowed."""

    name: str
    unit: str
    low: float
    high: float


class ModelInfo(TypedDict):
    """The version that is serving, and its input columns."""

    name: str
    version: str
    run_id: str
    engine: Literal["onnx", "pipeline"]
    engine_reason: Annotated[str, Field(description="Why this engine is used. A pipeline is far slower.")]
    since: datetime
    columns: list[CategoryColumn | NumberColumn]


def measurement_type(measurement: Measurement) -> Any:
    """Return the type of a measurement: a number in its range, or null."""
    low, high, description = measurement.low, measurement.high, f"{measurement.unit}, or null"
    limits = Field(ge=low, le=high, allow_inf_nan=False, description=description)
    return Annotated[float | None, limits]


if TYPE_CHECKING:
    Sample = dict[str, Any]
else:  # unlike a model, a TypedDict yields the dictionary that is scored and stored, in half the time
    measured = {name: measurement_type(measurement) for name, measurement in MEASUREMENTS.items()}
    Sample = TypedDict("Sample", {TYPE: Literal[tuple(TYPES)], **measured})
    Sample.__pydantic_config__ = ConfigDict(extra="forbid", strict=True)

measurements_of = itemgetter(*MEASUREMENTS)
SAMPLE_TYPE, SAMPLES_TYPE = TypeAdapter(Sample), TypeAdapter(list[Sample])
LIST_TYPE = TypeAdapter(Annotated[list[Any], Field(min_length=1, max_length=MAX_ROWS)])


def is_list(body: bytes) -> bool:
    """Return whether a body starts like a JSON list."""
    return body.lstrip().startswith(b"[")


def parse_sample(body: bytes) -> Sample:
    """Return the sample in a body, or raise a `RequestError` if it isn't JSON (400) or isn't a valid sample (422)."""
    try:
        return SAMPLE_TYPE.validate_json(body)
    except ValidationError as error:
        raise request_error(error) from None


def parse_samples(body: bytes) -> list[Sample]:
    """Return the samples in a body that is a list.

    Raise a `RequestError` if it isn't JSON (400), has too many samples (413) or contains an invalid one (422).
    """
    try:
        items = LIST_TYPE.validate_json(body)
    except ValidationError as error:
        raise request_error(error) from None
    samples, problems = [], []
    for start in range(0, len(items), VALIDATION_BATCH):
        try:
            samples += SAMPLES_TYPE.validate_python(items[start : start + VALIDATION_BATCH])
        except ValidationError as error:
            problems += problem_lines(error, start)
        if len(problems) >= SHOWN_PROBLEMS:
            break
    if problems:
        raise RequestError(422, *problems)
    return samples


def request_error(error: ValidationError) -> RequestError:
    """Return the error for a body that failed validation."""
    match error.errors(include_url=False)[0] if error.error_count() == 1 else {}:
        case {"type": "json_invalid", "ctx": {"error": why}}:
            return RequestError(400, f"the body isn't JSON: {why}")
        case {"type": "too_long"}:
            return RequestError(413, f"more than {MAX_ROWS:,} samples in one request. Send smaller requests")
        case {"type": "too_short"}:
            return RequestError(422, "the list is empty")
    return RequestError(422, *problem_lines(error))


def problem_lines(error: ValidationError, start: int = 0) -> list[str]:
    """Return the problems of a sample or of a batch of samples, whose first one has the index `start`."""
    if error.error_count() > MAX_PROBLEMS:
        return [f"{error.error_count():,} problems. A sample is an object with the fields {', '.join(FEATURES)}"]
    return [problem_line(details, start) for details in error.errors(include_url=False)]


def problem_line(details: ErrorDetails, start: int) -> str:
    """Return a problem as one line: the sample (if in a list), the field, the value and what is allowed."""
    place = details["loc"]
    names = [f"sample {start + part + 1}" if isinstance(part, int) else display_name(part) for part in place]
    what = describe_problem(details["type"], place[-1] if place else "", details["input"])
    return f"{', '.join(names)}: {what}" if names else what


def describe_problem(kind: str, name: str | int, value: object) -> str:
    """Return what is wrong with a value, given pydantic's name for the error."""
    match kind:
        case "missing":
            return f"missing. Send {allowed(name)}{'' if name == TYPE else ', or null'}"
        case "extra_forbidden":
            return "unknown field"
        case "dict_type":
            return f"{display(value)} is not a sample, which is an object with the fields {', '.join(FEATURES)}"
        case "float_type":
            return f"{display(value)} is not a number ({allowed(name)}) or null"
    return f"{display(value)} is not {allowed(name)}"


def allowed(name: str | int) -> str:
    """Return the values that a field allows."""
    if name == TYPE:
        return " or ".join(TYPES)
    measurement = MEASUREMENTS[str(name)]
    return f"{measurement.low:g} to {measurement.high:g} {measurement.unit}"


def display(value: object) -> str:
    """Return a value as shortened JSON, or just `an object` or `a list`."""
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    text = json.dumps(value[:MAX_SHOWN] if isinstance(value, str) else value, ensure_ascii=False)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…"


def display_name(name: str) -> str:
    """Return the name of a known field unchanged, and any other as shortened JSON."""
    return name if name in FEATURES else display(name)


def to_matrix(samples: list[Sample]) -> np.ndarray:
    """Return samples as the input matrix of a model (see `wine_quality.schema.to_matrix`), with NaN for null."""
    return np.array([(one[TYPE] == TYPES[0], *measurements_of(one)) for one in samples], dtype="float64")


def scores(scored: np.ndarray) -> list[Score]:
    """Convert the result of `Scorer.score_with_interval` to response models, with null if there is no interval."""
    return [
        {"score": score, "low": None if isnan(low) else low, "high": None if isnan(high) else high,
         "quality": round(score)}
        for score, low, high in scored.tolist()
    ]  # fmt: skip
