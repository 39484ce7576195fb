"""Request and response models, and the validation of requests.

The ranges are those of `wine_quality.schema`. A rejected request gets all of its problems at once, up to ten, each with
the wine, the field, the value and what it should have been.
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

from wine_quality.schema import FEATURES, MEASUREMENTS, SHOWN_PROBLEMS, TYPES, Measurement

MAX_ROWS = 5_000
VALIDATION_BATCH = 100  # wines checked in one go; between two of them other requests have their turn
MAX_PROBLEMS = 2_000  # of one go, beyond which a body is no attempt at wine
MAX_SHOWN = 40  # letters of a value or a name


class RequestError(Exception):
    """A request that cannot be answered: the status of HTTP, and what is wrong in one line each."""

    def __init__(self, status: int, *problems: str) -> None:
        super().__init__(problems[0])
        self.status = status
        self.problems = problems[:SHOWN_PROBLEMS]

    def body(self) -> bytes:
        """Return what is answered, of the form of `ErrorResponse`."""
        return to_json({"error": self.problems[0], "problems": self.problems})


class ErrorResponse(TypedDict):
    """What every refusal answers: the first problem, and all of them up to ten."""

    error: str
    problems: list[str]


class Score(TypedDict):
    """The score of one wine, its 90 % interval, null if the version has none, and the score as a whole number."""

    score: float
    low: float | None
    high: float | None
    quality: int


class ScoredRow(Score):
    """The score of one wine, which is stored."""

    id: Annotated[str, Field(description="Identifies this prediction among those that are stored.")]


class VersionInfo(TypedDict):
    """Which version of the model scored, and whether its predictions are stored."""

    version: str
    stored: bool


class PredictionResponse(ScoredRow, VersionInfo):
    """The answer to one wine."""


class PredictionsResponse(VersionInfo):
    """The answer to a list of wines, in their order."""

    predictions: list[ScoredRow]


class PreviewResponse(Score, VersionInfo):
    """The answer to a wine that is only tried out: its prediction is never stored and has no id."""


class Readiness(TypedDict):
    """Whether the service can score: green, amber where an older version serves on, red where it cannot."""

    status: Literal["green", "amber", "red"]
    reason: NotRequired[str]


class CategoryColumn(TypedDict):
    """A column of the model that holds one of some words."""

    name: str
    values: list[str]


class NumberColumn(TypedDict):
    """A column of the model that holds a number or null."""

    name: str
    unit: str
    low: float
    high: float


class ModelInfo(TypedDict):
    """The version that is serving."""

    name: str
    version: str
    run_id: str
    engine: Literal["onnx", "pipeline"]
    engine_reason: Annotated[str, Field(description="Why that engine: a forest without an ONNX graph is far slower.")]
    since: datetime
    columns: list[CategoryColumn | NumberColumn]


def measurement_type(what: Measurement) -> Any:
    """Return the type of a measurement: a number in its range, or null."""
    limits = Field(ge=what.low, le=what.high, allow_inf_nan=False, description=f"{what.unit}, or null")
    return Annotated[float | None, limits]


if TYPE_CHECKING:
    Wine = dict[str, Any]
else:  # a TypedDict, and not a model, gives the dictionary that is scored and stored, in half the time
    measured = {name: measurement_type(measurement) for name, measurement in MEASUREMENTS.items()}
    Wine = TypedDict("Wine", {"type": Literal[tuple(TYPES)], **measured})
    Wine.__pydantic_config__ = ConfigDict(extra="forbid", strict=True)

MEASURED = itemgetter(*MEASUREMENTS)
ONE, MANY = TypeAdapter(Wine), TypeAdapter(list[Wine])
ROWS = TypeAdapter(Annotated[list[Any], Field(min_length=1, max_length=MAX_ROWS)])


def is_list(body: bytes) -> bool:
    """Say whether a body begins as a JSON list does."""
    return body.lstrip().startswith(b"[")


def one_wine(body: bytes) -> Wine:
    """Return the wine of a body, or raise a `RequestError`: it is not JSON (400) or not a wine (422)."""
    try:
        return ONE.validate_json(body)
    except ValidationError as error:
        raise request_error(error) from None


def some_wines(body: bytes) -> list[Wine]:
    """Return the wines of a body that is a list of them.

    Raise a `RequestError` if it is not JSON (400), holds too many wines (413), or something that is no wine (422).
    """
    try:
        rows = ROWS.validate_json(body)
    except ValidationError as error:
        raise request_error(error) from None
    wines, problems = [], []
    for start in range(0, len(rows), VALIDATION_BATCH):
        try:
            wines += MANY.validate_python(rows[start : start + VALIDATION_BATCH])
        except ValidationError as error:
            problems += problem_lines(error, start)
        if len(problems) >= SHOWN_PROBLEMS:
            break
    if problems:
        raise RequestError(422, *problems)
    return wines


def request_error(error: ValidationError) -> RequestError:
    """Return what to answer to a body that is not what it should be."""
    match error.errors(include_url=False)[0] if error.error_count() == 1 else {}:
        case {"type": "json_invalid", "ctx": {"error": why}}:
            return RequestError(400, f"the body is not JSON: {why}")
        case {"type": "too_long"}:
            return RequestError(413, f"more than {MAX_ROWS:,} wines in one request. Send them in parts")
        case {"type": "too_short"}:
            return RequestError(422, "the list holds no wine")
    return RequestError(422, *problem_lines(error))


def problem_lines(error: ValidationError, start: int = 0) -> list[str]:
    """Return what is wrong with a wine or, in a list, with the wines after the first `start`."""
    if error.error_count() > MAX_PROBLEMS:
        return [f"{error.error_count():,} problems. A wine is an object with the fields {', '.join(FEATURES)}"]
    return [problem_line(details, start) for details in error.errors(include_url=False)]


def problem_line(details: ErrorDetails, start: int) -> str:
    """Return one thing that is wrong as a line: the wine where there are many, the field, what it is and should be."""
    place = details["loc"]
    names = [f"wine {start + part + 1}" if isinstance(part, int) else display_name(part) for part in place]
    what = describe_problem(details["type"], place[-1] if place else "", details["input"])
    return f"{', '.join(names)}: {what}" if names else what


def describe_problem(kind: str, name: str | int, value: object) -> str:
    """Return what is wrong with a value, by pydantic's name for the error."""
    match kind:
        case "missing":
            return f"missing. Give {allowed(name)}{'' if name == 'type' else ', or null'}"
        case "extra_forbidden":
            return "not a field of a wine"
        case "dict_type":
            return f"{display(value)} is not a wine, an object with the fields {', '.join(FEATURES)}"
        case "float_type":
            return f"{display(value)} is not a number ({allowed(name)}), nor null"
    return f"{display(value)} is not {allowed(name)}"


def allowed(name: str | int) -> str:
    """Return what a field may hold."""
    if name == "type":
        return " or ".join(TYPES)
    measurement = MEASUREMENTS[str(name)]
    return f"{measurement.low:g} to {measurement.high:g} {measurement.unit}"


def display(value: object) -> str:
    """Return a value as JSON writes it, shortened; of an object or a list only that it is one."""
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    text = json.dumps(value[:MAX_SHOWN] if isinstance(value, str) else value, ensure_ascii=False)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…"


def display_name(name: str) -> str:
    """Return the name of a field as it is where it is one, and shortened where it is not."""
    return name if name in FEATURES else display(name)


def to_matrix(wines: list[Wine]) -> np.ndarray:
    """Return wines as the matrix that a model takes (`wine_quality.schema.to_matrix`), NaN where there is a null."""
    return np.array([(wine["type"] == "red", *MEASURED(wine)) for wine in wines], dtype="float64")


def scores(scored: np.ndarray) -> list[Score]:
    """Return what `Scorer.score_with_interval` does as it is answered, with null where there is no interval."""
    return [
        {"score": score, "low": None if isnan(low) else low, "high": None if isnan(high) else high,
         "quality": round(score)}
        for score, low, high in scored.tolist()
    ]  # fmt: skip
