"""Cross-validate five models on two workers of Dask, for the picture of Dask's dashboard.

The dashboard needs Bokeh, which isn't part of the environment; `draw.py` fetches it for the occasion.
"""

import sys

from distributed import Client, LocalCluster

from wine_quality.config import settings
from wine_quality.models import build, fit_predict
from wine_quality.sources import load_dataset
from wine_quality.splits import FOLDS, distinct_rows, folds, train_gate_split

MODELS = ("decision_tree", "extra_trees", "k_neighbors", "random_forest", "xgboost_tuned")
SEEDS = 20  # each with folds of its own: more work than the picture waits for


def main() -> None:
    """Submit one task per seed, fold and model, and show them at the port that the first argument names."""
    rows, _ = train_gate_split(distinct_rows(load_dataset(settings()).table))
    address = f"127.0.0.1:{sys.argv[1]}"
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=address) as cluster,
        Client(cluster) as client,
    ):
        futures = []
        for seed in range(SEEDS):
            for number, (learn, score) in enumerate(folds(rows, seed)):
                for name in MODELS:
                    task = (fit_predict, build(name, seed), rows.iloc[learn], rows.iloc[score])
                    futures.append(client.submit(*task, key=f"{name}-{FOLDS * seed + number}"))
        client.gather(futures)


if __name__ == "__main__":
    main()
