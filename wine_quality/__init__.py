"""The data, its splits, the models, and how they are tracked, registered and stored."""

import logging

from wine_quality import environment

logging.getLogger(__name__).setLevel(logging.INFO)
environment.apply()  # without the `.pth` file of `make setup`, it must still come before mlflow and prefect are imported
