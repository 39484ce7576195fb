"""Chapter 3: the training flow, its bucket and its report."""

import os

from wine_quality.config import settings

# Prefect's state lies beside the rest of the project's, not in the reader's home; Prefect does not make the parent folder.
local = settings().local
local.mkdir(parents=True, exist_ok=True)
os.environ.setdefault("PREFECT_HOME", str(local / "prefect"))
