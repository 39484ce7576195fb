"""What the service is asked and what it answers: wines as JSON.

The ranges are those of `wine_quality.schema`. All that is wrong with a request is told at once, up to ten problems,
each with the wine, the field, the value and what it should have been.
"""

import json
from datetime import datetime
from operator import itemgetter
from typing import Annotated, Any, Literal, NotRequired

import numpy as np
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails, to_json
from typing_extensions import TypedDict

from wine_quality.schema import FEATURES, MEASUREMENTS, SHOWN_PROBLEMS, TYPES, Measurement

MOST_WINES = 5_000
AT_ONCE = 100  # wines checked in one go; between two of them other requests have their turn
MOST_FINDINGS = 2_000  # of one go, beyond which a body is no attempt at wine
SHOWN = 40  # letters of a value or a name


class Refusal(Exception):
    """A request that cannot be answered: the status of HTTP, and what is wrong in one line each."""

    def __init__(self, status: int, *problems: str) -> None:
        super().__init__(problems[0])
        self.status = status
        self.problems = problems[:SHOWN_PROBLEMS]

    def body(self) -> bytes:
        """Return what is answered, of the form of `Told`."""
        return to_json({"error": self.problems[0], "problems": self.problems})


class Told(TypedDict):
    """What every refusal answers: the first problem, and all of them up to ten."""

    error: str
    problems: list[str]


class Scored(TypedDict):
    """The score of one wine; `quality` is the score as a whole number."""

    score: float
    quality: int
    id: Annotated[str, Field(description="Names this prediction among those that are kept.")]


class Source(TypedDict):
    """Which version of the model answered, and whether its predictions are kept."""

    version: str
    stored: bool


class Answer(Scored, Source):
    """The answer to one wine."""


class Answers(Source):
    """The answer to a list of wines, in their order."""

    predictions: list[Scored]


class Preview(Source):
    """The answer to a wine that is only tried out: its prediction is never stored and has no id."""

    score: float
    quality: int


class Ready(TypedDict):
    """Whether the service can score: green, amber where an older version serves on, red where it cannot."""

    status: Literal["green", "amber", "red"]
    reason: NotRequired[str]


class Kind(TypedDict):
    """A column of the model that holds one of some words."""

    name: str
    values: list[str]


class Measure(TypedDict):
    """A column of the model that holds a number or null."""

    name: str
    unit: str
    low: float
    high: float


class Model(TypedDict):
    """The version that is serving."""

    name: str
    version: str
    run_id: str
    engine: Literal["onnx", "pipeline"]
    engine_reason: Annotated[str, Field(description="Why that engine: a forest without an ONNX graph is far slower.")]
    since: datetime
    columns: list[Kind | Measure]


def measured(measurement: Measurement) -> Any:
    """Return the type of a measurement: a number in its range, or null."""
    limits = Field(
        ge=measurement.low, le=measurement.high, allow_inf_nan=False, description=f"{measurement.unit}, or null"
    )
    return Annotated[float | None, limits]


# a TypedDict, and not a model, gives the dictionary that is scored and kept, in half the time
Wine = TypedDict(
    "Wine", {"type": Literal[tuple(TYPES)], **{name: measured(what) for name, what in MEASUREMENTS.items()}}
)
Wine.__pydantic_config__ = ConfigDict(extra="forbid", strict=True)

MEASURED = itemgetter(*MEASUREMENTS)
ONE, MANY = TypeAdapter(Wine), TypeAdapter(list[Wine])
ROWS = TypeAdapter(Annotated[list[Any], Field(min_length=1, max_length=MOST_WINES)])


def is_list(body: bytes) -> bool:
    """Say whether a body begins as a JSON list does."""
    return body.lstrip().startswith(b"[")


def one_wine(body: bytes) -> Wine:
    """Return the wine of a body.

    Raises
    ------
    Refusal
        The body is not JSON (400) or not a wine (422).
    """
    try:
        return ONE.validate_json(body)
    except ValidationError as error:
        raise refusal(error) from None


def some_wines(body: bytes) -> list[Wine]:
    """Return the wines of a body that is a list of them.

    Raises
    ------
    Refusal
        The body is not JSON (400), holds too many wines (413), or something that is not a wine (422).
    """
    try:
        rows = ROWS.validate_json(body)
    except ValidationError as error:
        raise refusal(error) from None
    wines, problems = [], []
    for start in range(0, len(rows), AT_ONCE):
        try:
            wines += MANY.validate_python(rows[start : start + AT_ONCE])
        except ValidationError as error:
            problems += findings(error, start)
        if len(problems) >= SHOWN_PROBLEMS:
            break
    if problems:
        raise Refusal(422, *problems)
    return wines


def refusal(error: ValidationError) -> Refusal:
    """Return what to answer to a body that is not what it should be."""
    match error.errors(include_url=False)[0] if error.error_count() == 1 else {}:
        case {"type": "json_invalid", "ctx": {"error": why}}:
            return Refusal(400, f"the body is not JSON: {why}")
        case {"type": "too_long"}:
            return Refusal(413, f"more than {MOST_WINES:,} wines in one request. Send them in parts")
        case {"type": "too_short"}:
            return Refusal(422, "the list holds no wine")
    return Refusal(422, *findings(error))


def findings(error: ValidationError, start: int = 0) -> list[str]:
    """Return what is wrong with a wine or, in a list, with the wines after the first `start`."""
    if error.error_count() > MOST_FINDINGS:
        return [f"{error.error_count():,} problems. A wine is an object with the fields {', '.join(FEATURES)}"]
    return [finding(details, start) for details in error.errors(include_url=False)]


def finding(details: ErrorDetails, start: int) -> str:
    """Return one thing that is wrong as a line: the wine where there are many, the field, what it is and should be."""
    place = details["loc"]
    names = [f"wine {start + part + 1}" if isinstance(part, int) else shown_name(part) for part in place]
    what = complaint(details["type"], place[-1] if place else "", details["input"])
    return f"{', '.join(names)}: {what}" if names else what


def complaint(kind: str, name: str | int, value: object) -> str:
    """Return what is wrong with a value, by pydantic's name for the error."""
    match kind:
        case "missing":
            return f"missing. Give {wanted(name)}{'' if name == 'type' else ', or null'}"
        case "extra_forbidden":
            return "not a field of a wine"
        case "dict_type":
            return f"{shown(value)} is not a wine, an object with the fields {', '.join(FEATURES)}"
        case "float_type":
            return f"{shown(value)} is not a number ({wanted(name)}), nor null"
    return f"{shown(value)} is not {wanted(name)}"


def wanted(name: str | int) -> str:
    """Return what a field may hold."""
    if name == "type":
        return " or ".join(TYPES)
    measurement = MEASUREMENTS[name]
    return f"{measurement.low:g} to {measurement.high:g} {measurement.unit}"


def shown(value: object) -> str:
    """Return a value as JSON writes it, shortened; of an object or a list only that it is one."""
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    text = json.dumps(value[:SHOWN] if isinstance(value, str) else value, ensure_ascii=False)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


def shown_name(name: str) -> str:
    """Return the name of a field as it is where it is one, and shortened where it is not."""
    return name if name in FEATURES else shown(name)


def columns(wines: list[Wine]) -> dict[str, np.ndarray]:
    """Return wines as the columns that a model takes, each of shape (n wines,), NaN where there is a null."""
    numbers = np.array([MEASURED(wine) for wine in wines], dtype="float64").T
    kinds = np.array([wine["type"] for wine in wines], dtype=object)
    return {"type": kinds, **dict(zip(MEASUREMENTS, numbers, strict=True))}
