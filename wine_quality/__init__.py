"""What two chapters share: the wine, its splits, the models, and how they are tracked, registered and stored."""

import logging
import os

logging.getLogger(__name__).setLevel(logging.INFO)

# read when mlflow and prefect are imported: nothing is sent anywhere, nor printed that nobody asked for
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("DO_NOT_TRACK", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # two lines for each trial of a search
# by default MLflow waits for minutes for a server that went away
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
