"""The environment that every tool of this project runs in: nothing is sent anywhere, and loopback is reached directly.

The tools read these variables when they are imported or started. `make setup` writes a `.pth` file into `.venv` that
applies them whenever its Python starts, so that they also hold for `.venv/bin/mlflow`, `.venv/bin/prefect` and a
notebook's kernel. A value that you have set yourself stays.
"""

import os

DEFAULTS = {
    "DO_NOT_TRACK": "true",  # Prefect and others
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "ORT_DISABLE_TELEMETRY": "1",  # onnxruntime, on by default on Linux since 1.29
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_UI_V2_ENABLED": "false",  # its pages call out even so
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    "ITERATIVE_DO_NOT_TRACK": "true",  # Evidently's own servers
    "AWS_EC2_METADATA_DISABLED": "true",  # boto3 looks for keys at 169.254.169.254 otherwise
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # two lines for each trial of a search
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # MLflow waits for minutes for a server that went away otherwise
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
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
