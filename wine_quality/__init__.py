"""The data, its splits, the models, and how they are tracked, registered and stored."""

import logging

logging.getLogger(__name__).setLevel(logging.INFO)  # its lines are for people, on the screen and in Prefect
