"""The data, its splits, the models, and how they are tracked, registered and stored."""

import logging

from wine_quality import environment

logging.getLogger(__name__).setLevel(logging.INFO)
environment.apply()  # where the `.pth` file of `make setup` is absent, it must still come before mlflow and prefect
