"""Chapter 3: the training flow, its bucket and its report."""

import os

from wine_quality.config import settings

# Prefect's state lies with the project's, not in the reader's home; Prefect itself does not make the folder above it.
local = settings().local
local.mkdir(parents=True, exist_ok=True)
os.environ.setdefault("PREFECT_HOME", str(local / "prefect"))
