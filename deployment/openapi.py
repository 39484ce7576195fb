"""The parts of the OpenAPI description that FastAPI can't derive: request bodies with examples, and error responses."""

from typing import Any

from deployment.schemas import MAX_ROWS, SAMPLE_TYPE, ErrorResponse
from wine_quality.schema import FEATURES

DESCRIPTION = """Predict the quality score that tasters would give a wine, from 0 to 10, from its lab measurements.

Every response names the model version that produced the scores. Predictions from `/predict` are stored; those of
`/preview` and `/curves` are not. A rejected request gets an error response: `error` is the first problem, and
`problems` lists up to ten."""
EXAMPLE = dict(
    zip(FEATURES, ("white", 6.95, 0.275, 0.33, 7.85, 0.0475, 42, 151, 0.9953, 3.15, 0.48, 9.65), strict=True)
)
ANOTHER = {**EXAMPLE, "type": "red", "alcohol": 12.5}
ERRORS = {
    400: "The body isn't JSON.",
    408: "The body didn't arrive in time.",
    413: "The body is too large, or has too many samples.",
    415: "The content type isn't JSON.",
    422: "A sample is invalid. The problems name the sample, the field, the value and the allowed range.",
    503: "No model version is loaded, or there are too many large requests at once.",
}
ERROR_RESPONSES: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorResponse, "description": text} for status, text in ERRORS.items()
}


def request_body(schema: dict[str, Any], **examples: Any) -> dict[str, Any]:
    """Return the description of a request body that a route parses itself."""
    shown = {name.replace("_", " "): {"value": value} for name, value in examples.items()}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema, "examples": shown}}}}


SAMPLE = SAMPLE_TYPE.json_schema()
SAMPLES = {"title": "Samples", "type": "array", "items": SAMPLE, "minItems": 1, "maxItems": MAX_ROWS}
ONE_SAMPLE = request_body(SAMPLE, a_sample=EXAMPLE)
ONE_OR_MORE_SAMPLES = request_body({"oneOf": [SAMPLE, SAMPLES]}, one_sample=EXAMPLE, two_samples=[EXAMPLE, ANOTHER])
