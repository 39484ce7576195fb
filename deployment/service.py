"""The champion as a service: it scores a wine and stores the prediction.

`limits` and `telemetry` see a request first. Its body is checked against the ranges of the schema (`schemas`) and
scored by the current champion (`champion`), and the prediction is stored before the response leaves
(`wine_quality.predictions`). The response names the version. The version may change between two requests but not within
one, because each takes the champion once.

Besides predictions there are endpoints for an operator (health, metrics, the model), and a page for people that
compares a wine with the nearest rows of the dataset (`neighbours`).
"""

import gc
import re
from asyncio import TaskGroup, get_running_loop
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, closing
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

from fastapi import FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse, PlainTextResponse
from fastapi_offline import FastAPIOffline
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic_core import to_json
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from deployment import schemas
from deployment.champion import Champion
from deployment.limits import BodyLimit, HeadAsGet
from deployment.neighbours import Curves, Neighbours, Ranges, RowIndex
from deployment.openapi import DESCRIPTION, ERROR_RESPONSES, ONE_WINE, SOME_WINES
from deployment.schemas import (
    CategoryColumn,
    ModelInfo,
    NumberColumn,
    PredictionResponse,
    PredictionsResponse,
    PreviewResponse,
    Readiness,
    RequestError,
    Score,
    Wine,
)
from deployment.telemetry import MetricsMiddleware, Telemetry
from wine_quality.config import Settings
from wine_quality.predictions import Prediction, PredictionStore
from wine_quality.same_origin import SameOrigin
from wine_quality.schema import FEATURES, MEASUREMENTS, TYPES
from wine_quality.scoring import Scorer

PAGE = Path(__file__).with_name("page")
SMALL = 8 * 2**10  # bytes of a body, some 30 wines: a millisecond or so, too short for a thread
FOLDERS = re.compile(r"(?<![\w.])(\w+:)?/[^\s'\"]*/")
LIVE = {"status": "live"}


class Service:
    """What the routes share, and the routes themselves."""

    def __init__(self, config: Settings) -> None:
        self.name = config.registered_model
        self.telemetry = Telemetry()
        self.champion = Champion(config)
        self.predictions = PredictionStore(config.prediction_queue, config.predictions_uri)
        self.threads = ThreadPoolExecutor(max_workers=2, thread_name_prefix="scoring")

    @asynccontextmanager
    async def running(self, _: FastAPI) -> AsyncIterator[None]:
        """Load the champion and watch it as long as the app runs; close the store of predictions at its end."""
        await run_in_threadpool(self.champion.refresh)
        gc.collect()
        gc.freeze()  # looking through all that was imported would stop every request for a quarter of a second
        with closing(self.predictions), self.threads:
            async with TaskGroup() as group:
                watching = group.create_task(self.champion.watch())
                yield
                watching.cancel()

    async def predict(self, request: Request) -> Response:
        """Score one wine, or a list of up to 5,000.

        Every field must be there; a measurement that was not taken is null, and counts as the mean of the
        wines that the model was trained on.
        The response names the version of the model and each prediction, and says whether it is stored.
        """
        body, scorer = await json_body(request), self.scorer()
        if scorer.engine == "onnx" and len(body) <= SMALL:
            answer = self.predict_json(body, scorer)
        else:
            answer = await get_running_loop().run_in_executor(self.threads, self.predict_json, body, scorer)
        return Response(answer, media_type="application/json")

    def scorer(self) -> Scorer:
        """Return the champion as it is now."""
        if scorer := self.champion.scorer:
            return scorer
        raise RequestError(503, f"no model is loaded: {self.problem()}")

    def problem(self) -> str:
        """Return what is wrong with the champion, without the folders of this machine, which the log alone tells."""
        return FOLDERS.sub("", self.champion.problem)

    def predict_json(self, body: bytes, scorer: Scorer) -> bytes:
        """Score the wines of a body, write the predictions down, and return what is answered, as JSON."""
        many = schemas.is_list(body)
        rows = schemas.some_wines(body) if many else [schemas.one_wine(body)]
        scores, now = self.scores(rows, scorer), datetime.now(UTC)
        predictions = [
            Prediction(str(uuid4()), now, scorer.version, wine, score["score"], score["low"], score["high"])
            for wine, score in zip(rows, scores, strict=True)
        ]
        source = {"version": scorer.version, "stored": self.predictions.add(predictions)}
        self.telemetry.count_predictions(len(predictions), source["stored"])
        scored = [{**score, "id": one.id} for one, score in zip(predictions, scores, strict=True)]
        return to_json({"predictions": scored, **source} if many else {**scored[0], **source})

    def scores(self, rows: list[Wine], scorer: Scorer) -> list[Score]:
        """Score rows and count them."""
        self.telemetry.count_rows(scorer.engine, len(rows))
        return schemas.scores(scorer.score_with_interval(schemas.to_matrix(rows)))

    async def preview(self, request: Request) -> PreviewResponse:
        """Score one wine and store nothing, to try out what the model says.

        The page asks here. Monitoring sees what `/predict` stores, so nothing that is only tried out looks like drift.
        """
        wine, scorer = schemas.one_wine(await json_body(request)), self.scorer()
        (score,) = await get_running_loop().run_in_executor(self.threads, self.scores, [wine], scorer)
        return {**score, "version": scorer.version, "stored": False}

    async def nearest(self, request: Request) -> Neighbours:
        """Find the five rows of the champion's dataset that are the most like a wine."""
        wine = schemas.one_wine(await json_body(request))
        return await run_in_threadpool(self.rows().nearest, wine)

    async def curves(self, request: Request) -> Curves:
        """Score a wine as it would be with other values of each measurement, one at a time, and store nothing."""
        wine, scorer, rows = schemas.one_wine(await json_body(request)), self.scorer(), self.rows()
        return await get_running_loop().run_in_executor(self.threads, rows.curves, wine, scorer)

    async def ranges(self) -> Ranges:
        """Return the usual range of each feature in the champion's dataset."""
        return self.rows().ranges()

    def rows(self) -> RowIndex:
        """Return the rows that were logged with the champion."""
        version = self.scorer().version
        if rows := self.champion.rows:
            return rows
        line = f"version {version} was logged without its rows, so nothing can be compared. Train again: make run"
        raise RequestError(503, line)

    async def model(self) -> ModelInfo:
        """Tell which version is serving, and what it takes."""
        scorer = self.scorer()
        return {
            "name": self.name,
            "version": scorer.version,
            "run_id": scorer.run_id,
            "engine": scorer.engine,
            "engine_reason": scorer.why,
            "since": self.champion.since,
            "columns": [column(name) for name in FEATURES],
        }

    async def health(self) -> dict[str, str]:
        """Answer as long as the process runs."""
        return LIVE

    async def ready(self, response: Response) -> Readiness:
        """Tell whether wines can be scored, and by the version that they should be scored by."""
        problem = self.problem()
        if not self.champion.scorer:
            response.status_code = 503
            return {"status": "red", "reason": problem}
        return {"status": "amber", "reason": problem} if problem else {"status": "green"}

    async def metrics(self) -> Response:
        """Tell Prometheus what happened since the start."""
        return Response(self.telemetry.page(self.champion.scorer), media_type=CONTENT_TYPE_LATEST)


class DirectEndpoint:
    """Call the endpoint of one POST route past the framework, whose routing takes longer than all the rest.

    The framework has the same route, so that /docs describes it.
    """

    def __init__(self, app: ASGIApp, path: str, endpoint: Callable[[Request], Awaitable[Response]]) -> None:
        self.app, self.path, self.endpoint = app, path, endpoint

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request to the endpoint, and pass on any other."""
        if scope["type"] != "http" or (scope["method"], scope["path"]) != ("POST", self.path):
            return await self.app(scope, receive, send)
        scope["route"] = self  # its path is what the metrics count by
        request = Request(scope, receive)
        try:
            response = await self.endpoint(request)
        except RequestError as error:
            response = await on_request_error(request, error)
        return await response(scope, receive, send)


def app(config: Settings) -> FastAPI:
    """Return the service as an ASGI app."""
    service = Service(config)
    api = FastAPIOffline(
        title="Wine quality",
        description=DESCRIPTION,
        redoc_url=None,
        lifespan=service.running,
        swagger_ui_parameters={"validatorUrl": None},
        telemetry={"tracing": False, "metrics": False, "logs": False},  # each looks into the environment at a request
    )
    add_routes(api, service)
    api.exception_handler(RequestError)(on_request_error)
    api.exception_handler(HTTPException)(on_http_error)
    api.exception_handler(Exception)(on_error)
    api.add_middleware(DirectEndpoint, path="/predict", endpoint=service.predict)
    api.add_middleware(BodyLimit)
    api.add_middleware(SameOrigin)
    api.add_middleware(MetricsMiddleware, telemetry=service.telemetry)
    api.add_middleware(HeadAsGet)
    return api


def add_routes(api: FastAPI, service: Service) -> None:
    """Name the paths, straight on the app: a router that is included costs each request 10 µs."""
    wine: dict[str, Any] = {"tags": ["wine"]}
    operation: dict[str, Any] = {"tags": ["operation"]}
    post: dict[str, Any] = {**wine, "methods": ["POST"], "responses": ERROR_RESPONSES}
    either = PredictionResponse | PredictionsResponse
    api.add_api_route("/predict", service.predict, response_model=either, openapi_extra=SOME_WINES, **post)
    api.add_api_route("/preview", service.preview, response_model=PreviewResponse, openapi_extra=ONE_WINE, **post)
    api.add_api_route("/nearest", service.nearest, response_model=Neighbours, openapi_extra=ONE_WINE, **post)
    api.add_api_route("/curves", service.curves, response_model=Curves, openapi_extra=ONE_WINE, **post)
    api.add_api_route("/wines/ranges", service.ranges, **wine)
    api.add_api_route("/model", service.model, responses={503: ERROR_RESPONSES[503]}, **operation)
    api.add_api_route("/health", service.health, **operation)
    api.add_api_route("/health/ready", service.ready, responses={503: {"model": Readiness}}, **operation)
    api.add_api_route("/metrics", service.metrics, response_class=PlainTextResponse, **operation)
    for name in ("index.html", "page.css", "page.js", "icon.svg"):
        api.add_api_route(f"/{name}", file(name), include_in_schema=False)
    api.add_api_route("/", file("index.html"), include_in_schema=False)


async def json_body(request: Request) -> bytes:
    """Return the body of a request that says it is JSON: no page of another site can send such a one unasked."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        line = "the body is not said to be JSON. Send it with the header Content-Type: application/json"
        raise RequestError(415, line)
    return await request.body()


def column(name: str) -> CategoryColumn | NumberColumn:
    """Return what a column of the model may hold."""
    if name == "type":
        return CategoryColumn(name=name, values=TYPES)
    return NumberColumn(name=name, **asdict(MEASUREMENTS[name]))


def file(name: str) -> Callable[[], Awaitable[FileResponse]]:
    """Return a route that gives one file of the page, which may ask this service alone for more."""

    async def respond() -> FileResponse:
        return FileResponse(PAGE / name, headers={"Content-Security-Policy": "default-src 'self'"})

    return respond


async def on_request_error(_: Request, error: RequestError) -> Response:
    """Answer what is wrong with a request."""
    return Response(error.body(), error.status, media_type="application/json")


async def on_http_error(request: Request, error: HTTPException) -> Response:
    """Answer a request to a path or by a method that there is not."""
    line = {404: "nothing is here. The paths are in /docs", 405: f"{request.method} is not for this path. See /docs"}
    response = RequestError(error.status_code, line.get(error.status_code, error.detail))
    return Response(response.body(), error.status_code, error.headers, media_type="application/json")


async def on_error(request: Request, _: Exception) -> Response:
    """Answer what should never happen; the cause is on the server's screen and not for the asker."""
    return await on_request_error(request, RequestError(500, "the service failed. Its log has the cause"))
