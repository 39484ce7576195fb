"""The environment that every tool of this project runs in: nothing is sent anywhere, and loopback is reached directly.

`make setup` writes a `.pth` file into `.venv` that applies it whenever its Python starts, so that it also holds for
`.venv/bin/mlflow`, `.venv/bin/prefect` and a notebook's kernel. A value that you have set yourself stays.
"""

import os

DEFAULTS = {
    "DO_NOT_TRACK": "true",  # Prefect and others
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "ORT_DISABLE_TELEMETRY": "1",  # onnxruntime, on by default on Linux since 1.29
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    # a server that Prefect starts by itself: no page of another origin reads from it or writes to it
    "PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS": "http://127.0.0.1:4200,http://localhost:4200",
    "PREFECT_SERVER_API_CSRF_PROTECTION_ENABLED": "true",
    "PREFECT_SERVER_UI_V2_ENABLED": "false",  # its pages call out even so
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    "ITERATIVE_DO_NOT_TRACK": "true",  # Evidently's own servers
    "AWS_EC2_METADATA_DISABLED": "true",  # boto3 looks for keys at 169.254.169.254 otherwise
    "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",  # S3 servers other than Amazon's may refuse the CRC headers
    "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # two lines for each trial of a search
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # MLflow waits for minutes for a server that went away otherwise
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    # else MLflow holds on to the file of a store that was removed, and never sees the one that takes its place
    "MLFLOW_SQLALCHEMYSTORE_POOLCLASS": "NullPool",
    "UVICORN_HTTP": "wine_quality.same_origin:SameOriginProtocol",  # of a server that Prefect starts by itself
}
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def apply() -> None:
    """Set what is not set yet, and exempt loopback from any proxy."""
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
    for name in ("NO_PROXY", "no_proxy"):  # clients differ in which spelling they prefer
        exempt = [host.strip() for host in os.environ.get(name, "").split(",") if host.strip()]
        if "*" not in exempt:
            os.environ[name] = ",".join(dict.fromkeys([*exempt, *LOOPBACK]))


def prefect_at(port: int) -> dict[str, str]:
    """Return the settings of a Prefect server that this project starts at a port of loopback, and of its clients.

    Such a server checks the origin of each request (`orchestration.prefect_server`), so it needs no CSRF tokens, which
    cost every client a write to the database.
    """
    return {
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_SERVER_API_PORT": str(port),
        "PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS": f"http://127.0.0.1:{port},http://localhost:{port}",
        "PREFECT_SERVER_API_CSRF_PROTECTION_ENABLED": "false",
        # else a restart of the server forgets who holds a slot of a concurrency limit, and it's never free again
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
        "PREFECT_SERVER_CONCURRENCY_MAXIMUM_CONCURRENCY_SLOT_WAIT_SECONDS": "5",
        "PREFECT_LOGGING_SERVER_LEVEL": "WARNING",
    }
