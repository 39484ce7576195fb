"""The service: it scores samples with the champion and stores the predictions.

A request first passes `limits` and `telemetry`. Its body is validated against the ranges of the schema (`schemas`) and
scored by the current champion (`champion`), and the prediction is stored before the response is sent
(`wine_quality.predictions`). The response names the version. It can't change during a request, because each request
takes the champion once.

There are also endpoints for operations (health, metrics, the model), and a web page that compares a sample with the
nearest rows of the dataset (`neighbours`).
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
from deployment.openapi import DESCRIPTION, ERROR_RESPONSES, ONE_OR_MORE_SAMPLES, ONE_SAMPLE
from deployment.schemas import (
    CategoryColumn,
    ModelInfo,
    NumberColumn,
    PredictionResponse,
    PredictionsResponse,
    PreviewResponse,
    Readiness,
    RequestError,
    Sample,
    Score,
)
from deployment.telemetry import MetricsMiddleware, Telemetry
from wine_quality.config import Settings
from wine_quality.models import sklearn_threads
from wine_quality.predictions import Prediction, PredictionStore
from wine_quality.same_origin import SameOrigin
from wine_quality.schema import FEATURES, MEASUREMENTS, TYPE, TYPES
from wine_quality.scoring import Scorer

PAGE = Path(__file__).with_name("page")
SMALL = 8 * 2**10  # bytes of a body, some 30 samples: scored in a millisecond or so, not worth a thread
FOLDERS = re.compile(r"(?<![\w.])(\w+:)?/[^\s'\"]*/")
LIVE = {"status": "live"}


class Service:
    """The routes and their shared state."""

    def __init__(self, config: Settings) -> None:
        self.name = config.registered_model
        self.telemetry = Telemetry()
        self.champion = Champion(config)
        self.predictions = PredictionStore(config.prediction_queue, config.predictions_uri)
        self.threads = ThreadPoolExecutor(max_workers=2, thread_name_prefix="scoring")

    @asynccontextmanager
    async def running(self, _: FastAPI) -> AsyncIterator[None]:
        """Load the champion and keep it up to date while the app runs; close the prediction store when it stops."""
        await run_in_threadpool(self.champion.refresh)
        gc.collect()
        gc.freeze()  # a collection of all imported objects would block requests for a quarter of a second
        with closing(self.predictions), sklearn_threads(), self.threads:
            async with TaskGroup() as group:
                polling = group.create_task(self.champion.poll())
                yield
                polling.cancel()

    async def predict(self, request: Request) -> Response:
        """Score one sample, or a list of up to 5,000, and store the predictions.

        All fields are required. If a measurement wasn't taken, send null: the model uses the mean of its training set.
        The response has the model version, the id of each prediction, and whether they are stored.
        """
        body, scorer = await json_body(request), self.scorer()
        if scorer.engine == "onnx" and len(body) <= SMALL:
            response = self.predict_json(body, scorer)
        else:
            response = await get_running_loop().run_in_executor(self.threads, self.predict_json, body, scorer)
        return Response(response, media_type="application/json")

    def scorer(self) -> Scorer:
        """Return the current champion, or raise a `RequestError` if none is loaded."""
        if scorer := self.champion.scorer:
            return scorer
        raise RequestError(503, f"no model is loaded: {self.problem()}")

    def problem(self) -> str:
        """Return what is wrong with the champion, without the folders of this machine; the log has those."""
        return FOLDERS.sub("", self.champion.problem)

    def predict_json(self, body: bytes, scorer: Scorer) -> bytes:
        """Score the samples in a body, store the predictions, and return the response as JSON."""
        many = schemas.is_list(body)
        samples = schemas.parse_samples(body) if many else [schemas.parse_sample(body)]
        scores, now = self.scores(samples, scorer), datetime.now(UTC)
        predictions = [
            Prediction(str(uuid4()), now, scorer.version, sample, score["score"], score["low"], score["high"])
            for sample, score in zip(samples, scores, strict=True)
        ]
        source = {"version": scorer.version, "stored": self.predictions.add(predictions)}
        self.telemetry.count_predictions(len(predictions), source["stored"])
        scored = [{**score, "id": one.id} for one, score in zip(predictions, scores, strict=True)]
        return to_json({"predictions": scored, **source} if many else {**scored[0], **source})

    def scores(self, samples: list[Sample], scorer: Scorer) -> list[Score]:
        """Score samples and count them."""
        self.telemetry.count_rows(scorer.engine, len(samples))
        return schemas.scores(scorer.score_with_interval(schemas.to_matrix(samples)))

    async def preview(self, request: Request) -> PreviewResponse:
        """Score one sample without storing the prediction.

        Use it for experiments: monitoring only sees what `/predict` stores, so they can't look like drift. The web
        page uses it, too.
        """
        sample, scorer = schemas.parse_sample(await json_body(request)), self.scorer()
        (score,) = await get_running_loop().run_in_executor(self.threads, self.scores, [sample], scorer)
        return {**score, "version": scorer.version, "stored": False}

    async def nearest(self, request: Request) -> Neighbours:
        """Find the five rows of the champion's dataset that are most similar to a sample."""
        sample = schemas.parse_sample(await json_body(request))
        return await run_in_threadpool(self.rows().nearest, sample)

    async def curves(self, request: Request) -> Curves:
        """Score a sample while varying one measurement at a time, without storing the predictions."""
        sample, scorer, rows = schemas.parse_sample(await json_body(request)), self.scorer(), self.rows()
        return await get_running_loop().run_in_executor(self.threads, rows.curves, sample, scorer)

    async def ranges(self) -> Ranges:
        """Return the typical range of each measurement in the champion's dataset."""
        return self.rows().ranges()

    def rows(self) -> RowIndex:
        """Return the rows that were logged with the champion."""
        version = self.scorer().version
        if rows := self.champion.rows:
            return rows
        line = f"version {version} was logged without its rows, so there's nothing to compare. Train again: make run"
        raise RequestError(503, line)

    async def model(self) -> ModelInfo:
        """Return which version is serving, and its input columns."""
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
        """Return 200 as long as the process is alive."""
        return LIVE

    async def ready(self, response: Response) -> Readiness:
        """Return whether the service can score, and whether it does so with the current champion."""
        problem = self.problem()
        if not self.champion.scorer:
            response.status_code = 503
            return {"status": "red", "reason": problem}
        return {"status": "amber", "reason": problem} if problem else {"status": "green"}

    async def metrics(self) -> Response:
        """Return the metrics since the start, in the format of Prometheus."""
        return Response(self.telemetry.page(self.champion.scorer), media_type=CONTENT_TYPE_LATEST)


class DirectEndpoint:
    """Call the endpoint of a POST route directly, because FastAPI's routing takes longer than everything else.

    FastAPI has the same route, so that /docs describes it.
    """

    def __init__(self, app: ASGIApp, path: str, endpoint: Callable[[Request], Awaitable[Response]]) -> None:
        self.app, self.path, self.endpoint = app, path, endpoint

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Respond to a request to the endpoint, and pass on any other."""
        if scope["type"] != "http" or (scope["method"], scope["path"]) != ("POST", self.path):
            return await self.app(scope, receive, send)
        scope["route"] = self  # the metrics are labelled by its path
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
        telemetry={"tracing": False, "metrics": False, "logs": False},  # each reads the environment at every request
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
    """Add the routes directly to the app: an included router would add 10 µs to each request."""
    scoring: dict[str, Any] = {"tags": ["scoring"]}
    operations: dict[str, Any] = {"tags": ["operations"]}
    post: dict[str, Any] = {**scoring, "methods": ["POST"], "responses": ERROR_RESPONSES}
    either = PredictionResponse | PredictionsResponse
    api.add_api_route("/predict", service.predict, response_model=either, openapi_extra=ONE_OR_MORE_SAMPLES, **post)
    api.add_api_route("/preview", service.preview, response_model=PreviewResponse, openapi_extra=ONE_SAMPLE, **post)
    api.add_api_route("/nearest", service.nearest, response_model=Neighbours, openapi_extra=ONE_SAMPLE, **post)
    api.add_api_route("/curves", service.curves, response_model=Curves, openapi_extra=ONE_SAMPLE, **post)
    api.add_api_route("/ranges", service.ranges, **scoring)
    api.add_api_route("/model", service.model, responses={503: ERROR_RESPONSES[503]}, **operations)
    api.add_api_route("/health", service.health, **operations)
    api.add_api_route("/health/ready", service.ready, responses={503: {"model": Readiness}}, **operations)
    api.add_api_route("/metrics", service.metrics, response_class=PlainTextResponse, **operations)
    for name in ("index.html", "page.css", "page.js", "icon.svg"):
        api.add_api_route(f"/{name}", file(name), include_in_schema=False)
    api.add_api_route("/", file("index.html"), include_in_schema=False)


async def json_body(request: Request) -> bytes:
    """Return the body of a request whose content type is JSON, which a page of another site can't send unnoticed."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        line = "the content type isn't JSON. Send the header Content-Type: application/json"
        raise RequestError(415, line)
    return await request.body()


def column(name: str) -> CategoryColumn | NumberColumn:
    """Return the description of an input column of the model."""
    if name == TYPE:
        return CategoryColumn(name=name, values=TYPES)
    return NumberColumn(name=name, **asdict(MEASUREMENTS[name]))


def file(name: str) -> Callable[[], Awaitable[FileResponse]]:
    """Return a route that serves a file of the web page, which may only send requests to this service."""

    async def respond() -> FileResponse:
        return FileResponse(PAGE / name, headers={"Content-Security-Policy": "default-src 'self'"})

    return respond


async def on_request_error(_: Request, error: RequestError) -> Response:
    """Respond with the problems of a request."""
    return Response(error.body(), error.status, media_type="application/json")


async def on_http_error(request: Request, error: HTTPException) -> Response:
    """Respond to a request with an unknown path or method."""
    line = {404: "no such path. See /docs", 405: f"this path doesn't allow {request.method}. See /docs"}
    response = RequestError(error.status_code, line.get(error.status_code, error.detail))
    return Response(response.body(), error.status_code, error.headers, media_type="application/json")


async def on_error(request: Request, _: Exception) -> Response:
    """Respond to an unexpected error; its cause is for the server's log, not for the client."""
    return await on_request_error(request, RequestError(500, "internal error. See the log of the service"))
