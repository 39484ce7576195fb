"""Measure how far the committed sample is from the real wine: `python -m benchmarks.sample` with `WINE_DATA` set."""

from benchmarks.machine import write_results
from wine_quality import sources, splits
from wine_quality.config import settings
from wine_quality.metrics import scores
from wine_quality.models import build, cross_predict, fit, predict
from wine_quality.schema import MEASUREMENTS, TARGET


def main() -> None:
    config = settings()
    wine = sources.load_dataset(config)
    assert wine.source != "sample", "set WINE_DATA to a folder of real wine"
    real, made = (splits.distinct_rows(table) for table in (wine.table, sources.sample("to measure").table))
    pipeline = fit(build("extra_trees_tuned", config.seed), made)
    own = cross_predict(build("extra_trees_tuned", config.seed), made, splits.folds(made, config.seed))
    columns = list(MEASUREMENTS)
    means = (made.groupby("type")[columns].mean() / real.groupby("type")[columns].mean() - 1).abs()
    apart = [made[made["type"] == t][[*columns, TARGET]].corr() - real[real["type"] == t][[*columns, TARGET]].corr()
             for t in ("red", "white")]  # fmt: skip
    write_results(
        "sample",
        {
            "rows": len(sources.sample("to measure").table),
            "distinct_rows": made["type"].value_counts().to_dict(),
            "equal_to_a_real_wine": int(splits.leaked(real, made).sum()),
            "trained_on_sample_tested_on_real": scores(real[TARGET].to_numpy(), predict(pipeline, real)),
            "sample_in_5_folds": scores(made[TARGET].to_numpy(), own),
            "largest_relative_difference_of_a_column_mean": float(means.max().max()),
            "in_column": str(means.max().idxmax()),
            "largest_difference_of_a_correlation": float(max(abs(a).max().max() for a in apart)),
        },
    )


if __name__ == "__main__":
    main()
