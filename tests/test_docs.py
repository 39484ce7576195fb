"""Every figure of the README is one that was measured."""

import json

from wine_quality.config import ROOT
from wine_quality.models import MODELS

README = (ROOT / "README.md").read_text()


def results(name: str) -> dict:
    return json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())


def test_the_table_of_models_is_the_one_that_was_measured():
    models = results("scores")["models"]
    best_first = sorted(MODELS, key=lambda name: models[name]["folds"]["rmse"])
    rows = [
        "| "
        + " | ".join(
            [name, *(f"{models[name][on][measure]:z.3f}" for on in ("folds", "holdout") for measure in ("rmse", "r2"))]
        )
        + " |"
        for name in best_first
    ]
    assert "\n".join(rows) in README


def test_the_seconds_and_gigabytes_of_a_run_are_those_that_were_measured():
    run = results("run")
    words = " ".join(README.split())
    assert f"a run takes {run['seconds']['min']:.0f} to {run['seconds']['max']:.0f} seconds" in words
    work = run["seconds_from_load_to_push"]
    assert f"{work['min']:.0f} to {work['max']:.0f} of them from the wine to the bucket" in words
    assert f"at most {run['peak_memory_gb']['max']:.1f} GB of memory" in words
    assert f"the first run {run['first_run_seconds']:.0f} seconds" in words


def test_the_overhead_and_the_size_of_the_set_up_are_those_that_were_measured():
    words, setup = " ".join(README.split()), results("setup")
    seconds = setup["seconds_with_packages_cached"]
    assert f"at most {results('overhead')['flow_over_plain']['max']:.2f} times as long" in words
    assert f"The set-up takes {seconds['min']:.0f} to {seconds['max']:.0f} seconds" in words
    assert f"{setup['environment_gb']:.2f} GB of disk" in words
