"""How /docs describes what the service reads and refuses by itself: bodies with an example, and the refusals."""

from typing import Any

from deployment.schemas import MAX_ROWS, ONE, ErrorResponse
from wine_quality.schema import FEATURES

DESCRIPTION = """The score that tasters would give a wine, 0 to 10, from what a laboratory measures.

Each response names the version of the model that scored, and each prediction is stored. A rejected request gets an
error of one form: `error` is the first problem and `problems` has up to ten of them."""
EXAMPLE = dict(
    zip(FEATURES, ("white", 6.95, 0.275, 0.33, 7.85, 0.0475, 42, 151, 0.9953, 3.15, 0.48, 9.65), strict=True)
)
ANOTHER = {**EXAMPLE, "type": "red", "alcohol": 12.5}
ERRORS = {
    400: "The body is not JSON.",
    408: "The body did not arrive in time.",
    413: "The body is too large, or holds too many wines.",
    415: "The body is not said to be JSON.",
    422: "A wine is not as it should be; the problems name it, the field, the value and its limits.",
    503: "No version of the model is loaded, or too many large requests came at once.",
}
ERROR_RESPONSES: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorResponse, "description": what} for status, what in ERRORS.items()
}


def body(schema: dict[str, Any], **examples: Any) -> dict[str, Any]:
    """Return the description of a body that a route reads by itself."""
    shown = {name.replace("_", " "): {"value": value} for name, value in examples.items()}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema, "examples": shown}}}}


WINE = ONE.json_schema()
WINES = {"title": "Wines", "type": "array", "items": WINE, "minItems": 1, "maxItems": MAX_ROWS}
ONE_WINE = body(WINE, a_wine=EXAMPLE)
SOME_WINES = body({"oneOf": [WINE, WINES]}, one_wine=EXAMPLE, two_wines=[EXAMPLE, ANOTHER])
