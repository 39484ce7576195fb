"""Metrics for Prometheus: requests, their latency, rows scored, and the version that is serving."""

from functools import cache
from time import perf_counter

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from wine_quality.scoring import Scorer

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
PREDICT = "/predict"  # the path whose rejected requests are monitored
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
CLIENT_CLOSED = 499  # as nginx logs it if the client disconnects before the response


class Telemetry:
    """The metrics of one app, in their own registry."""

    def __init__(self) -> None:
        self.series = cache(lambda metric, *labels: metric.labels(*labels))  # looking it up takes longer than counting
        prometheus_client.disable_created_metrics()  # they double the number of series, and nobody reads them
        self.registry = own = CollectorRegistry()
        ProcessCollector(registry=own)
        self.requests = Counter("wine_requests", "Requests.", ["method", "path", "status"], registry=own)
        latency = "Time from the headers of a request to the end of its response."
        self.seconds = Histogram("wine_request_seconds", latency, ["path"], buckets=SECONDS, registry=own)
        self.rows = Counter("wine_rows_scored", "Rows scored, by engine.", ["engine"], registry=own)
        stored = "Predictions, by whether they are stored."
        self.predictions = Counter("wine_predictions", stored, ["stored"], registry=own)
        started = Gauge("wine_start_time_seconds", "When the service started, in seconds since 1970.", registry=own)
        started.set_to_current_time()  # the one of ProcessCollector needs Linux
        labels = ["version", "run_id", "engine"]
        self.model = Gauge("wine_model_info", "The version that is serving.", labels, registry=own)

    def count_rows(self, engine: str, count: int) -> None:
        """Count scored rows."""
        self.series(self.rows, engine).inc(count)

    def count_predictions(self, count: int, stored: bool) -> None:
        """Count predictions, by whether they are stored."""
        self.series(self.predictions, "true" if stored else "false").inc(count)

    def page(self, scorer: Scorer | None) -> bytes:
        """Return all metrics in the format of Prometheus."""
        self.model.clear()
        if scorer:
            self.model.labels(scorer.version, scorer.run_id, scorer.engine).set(1)
        return generate_latest(self.registry)


class MetricsMiddleware:
    """Count each request and its latency by route, because the requested paths and methods are unbounded."""

    def __init__(self, app: ASGIApp, telemetry: Telemetry) -> None:
        self.app = app
        self.telemetry = telemetry

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on and count it."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        status, counted, started, telemetry = CLIENT_CLOSED, False, perf_counter(), self.telemetry

        def count() -> None:
            nonlocal counted
            if not counted:
                refused = PREDICT if scope["path"] == PREDICT else "other"  # before it was routed
                path = getattr(scope.get("route"), "path", refused)
                method = scope["method"] if scope["method"] in METHODS else "other"
                telemetry.series(telemetry.requests, method, path, status).inc()
                telemetry.series(telemetry.seconds, path).observe(perf_counter() - started)
            counted = True

        async def send_counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            elif not message.get("more_body"):
                count()  # before the client has the response, because it may request the metrics next
            await send(message)

        try:
            await self.app(scope, receive, send_counted)
        except Exception:
            status = 500
            raise
        finally:
            count()
