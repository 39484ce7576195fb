"""Chapter 4: the champion as a service and as a batch job."""

import os

# MLflow would hold on to the file of a store that was taken away, and never see the one that was put in its place
os.environ.setdefault("MLFLOW_SQLALCHEMYSTORE_POOLCLASS", "NullPool")
