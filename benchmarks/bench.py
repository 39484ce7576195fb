"""Measure the main job on the real data: `make bench WINE_DATA=folder`. Each part writes `results/<part>.json`.

Name the parts to run on the command line; the default is all of them:
scores (of every model, by cross-validation), intervals (their coverage of the gate set), run (`make run`: seconds and
memory), overhead (of the flow over plain functions), setup (`make setup` in a fresh clone, packages cached), group
(`make run` in two clones in turn, with and without the group `scaling`), notebooks (`make notebooks`, on copies, in a
separate home), start (`make start` of each chapter, from an empty home), tests (`make test`), walk (the commands of the
READMEs one by one, as `make check-docs` runs them), simulation (three runs from scratch: seconds, and whether the
outcome is the same), sample (how much the committed sample differs from the real data).
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, cast
from unittest.mock import patch

import psutil
from sklearn.metrics import r2_score

import chapters
from benchmarks.machine import REPEATS, memory_gb, spread, write_results
from notebooks.execute import CHAPTERS, all_notebooks
from wine_quality import sources, splits
from wine_quality.config import ROOT, settings
from wine_quality.intervals import bounds, conformal_quantile, fit_half_width
from wine_quality.metrics import scores
from wine_quality.models import BASELINES, BLEND, build, cross_predict, fit, predict
from wine_quality.schema import MEASUREMENTS, TARGET, TYPE
from wine_quality.slices import error_table
from wine_quality.tuning import Candidate, Objective

FRESH = {"PREFECT_TASKS_REFRESH_CACHE": "true"}  # so that no run reuses cached results
SHOWN = (
    "check",
    "split",
    "baseline",
    "search",
    "score",
    "interval",
    "register",
    "push",
)  # what the README shows of a first run


def output_of(*command: str | Path, **environment: str) -> str:
    """Run a command and return what it prints; if it fails, show that and stop."""
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **environment}, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"{done.stdout}\nerror: {' '.join(map(str, command))} failed")
    return done.stdout


def bench_scores() -> None:
    config = settings()
    distinct = splits.distinct_rows(sources.load_dataset(config).table)
    actual = distinct[TARGET].to_numpy()
    objective = Objective(distinct, config.seed)
    rows = {name: {"folds": scores(actual, objective.predictions(Candidate(name, {})))} for name in BASELINES}
    write_results("scores", {"wines": {"distinct": len(distinct)}, "models": rows})


def bench_intervals() -> None:
    config = settings()
    train, gate_set = splits.train_gate_split(splits.distinct_rows(sources.load_dataset(config).table))
    held_out = Objective(train, config.seed).predictions(Candidate(BLEND, {}))
    scored = predict(fit(build(BLEND, config.seed), train), gate_set)
    half_widths = predict(fit_half_width(train, held_out, config.seed), gate_set)
    table = error_table(gate_set, scored, bounds(scored, half_widths), config.seed)
    results = {
        "one_half_width": conformal_quantile((train[TARGET] - held_out).abs().to_numpy()),
        "half_width": {"mean": half_widths.mean(), "min": half_widths.min(), "max": half_widths.max()},
        "gate_set": table.to_dict("index"),
    }
    write_results("intervals", results)


def start_run(folder: Path = ROOT) -> subprocess.Popen[str]:
    """Start `make run` in a checkout, and pipe its output line by line."""
    environment = {**os.environ, **FRESH, "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(["make", "run"], cwd=folder, env=environment, stdout=subprocess.PIPE, text=True)


def timed_run() -> tuple[float, float, dict[str, str]]:
    """Run `make run`; return its seconds, those from its line `load` to its line `push`, and its lines by name."""
    started, moments, lines = time.perf_counter(), {}, {}
    with start_run() as process:
        for line in process.stdout or []:
            name, _, text = line.partition(" ")
            moments.setdefault(name, time.perf_counter())
            lines.setdefault(name, text.strip())
    assert process.returncode == 0
    seconds, work = time.perf_counter() - started, moments["push"] - moments["load"]
    return seconds, work, {name: lines[name] for name in SHOWN}


def peak_memory(folder: Path = ROOT) -> float:
    """Run `make run`; return the peak memory of it and its children in GB, counting shared pages once."""
    peak = 0.0
    with start_run(folder) as process:
        while process.poll() is None:
            with suppress(psutil.NoSuchProcess):
                peak = max(peak, memory_gb(process.pid))
            time.sleep(0.2)
    assert process.returncode == 0
    return peak


def bench_run() -> None:
    (first_seconds, _, first_lines), *later = [timed_run() for _ in range(1 + REPEATS)]
    results = {
        "first_run_seconds": round(first_seconds, 1),
        "seconds": spread([seconds for seconds, _, _ in later]),
        "seconds_from_load_to_push": spread([work for _, work, _ in later]),
        "peak_memory_gb": spread([peak_memory() for _ in range(REPEATS)]),
        "printed": first_lines,
    }
    write_results("run", results)


def bench_overhead() -> None:
    from prefect import Flow, Task  # here, because the other parts don't need Prefect
    from prefect.settings import PREFECT_TASKS_REFRESH_CACHE, temporary_settings

    from orchestration import train
    from orchestration.startup import prepare_home

    plain: dict[str, Any] = {name: part.fn for name, part in vars(train).items() if isinstance(part, (Flow, Task))}

    def seconds() -> float:
        started = time.perf_counter()
        train.train_wine_quality()
        return time.perf_counter() - started

    ratios = []
    with patch.dict(os.environ):  # the next parts have their own Prefect homes
        prepare_home()
        with temporary_settings({PREFECT_TASKS_REFRESH_CACHE: True}):
            seconds()  # starts Prefect's server and creates MLflow's store
            for _ in range(REPEATS):
                as_flow = seconds()
                with patch.multiple(train, **plain):
                    ratios.append(as_flow / seconds())
    write_results("overhead", {"flow_over_plain": spread(ratios)})


def bench_setup() -> None:
    times, size = [], 0.0
    for _ in range(REPEATS):
        with tempfile.TemporaryDirectory() as folder:
            output_of("git", "clone", "-q", ROOT, folder)
            started = time.perf_counter()
            output_of("make", "-C", folder, "setup")
            times.append(time.perf_counter() - started)
            size = int(output_of("du", "-sk", f"{folder}/.venv").split()[0]) * 1024 / 1e9
    write_results("setup", {"seconds_with_packages_cached": spread(times), "environment_gb": round(size, 2)})


def bench_group() -> None:
    tasks = {"without": "setup", "with": "setup-scaling"}
    seconds, peaks = ({clone: [] for clone in tasks} for _ in range(2))
    with tempfile.TemporaryDirectory() as folder:
        for clone, task in tasks.items():
            output_of("git", "clone", "-q", ROOT, f"{folder}/{clone}")
            output_of("make", "-C", f"{folder}/{clone}", task)
            peak_memory(Path(folder, clone))  # compiles the modules
        for _ in range(REPEATS):
            for clone in tasks:
                began = time.perf_counter()
                peaks[clone].append(peak_memory(Path(folder, clone)))
                seconds[clone].append(time.perf_counter() - began)

    def ratios(measures: dict[str, list[float]]) -> dict[str, float]:
        return spread([own / base for own, base in zip(measures["with"], measures["without"], strict=True)])

    results = {
        "seconds": {clone: spread(seconds[clone]) for clone in tasks},
        "peak_memory_gb": {clone: spread(peaks[clone]) for clone in tasks},
        "seconds_with_over_without": ratios(seconds),
        "memory_with_over_without": ratios(peaks),
    }
    write_results("group", results)


def bench_notebooks() -> None:
    notebooks, times = all_notebooks(), {chapter: [] for chapter in CHAPTERS}
    for _ in range(REPEATS):
        with tempfile.TemporaryDirectory() as folder:
            copies = [shutil.copy(path, folder) for path in notebooks]
            lines = output_of(sys.executable, "-m", "notebooks.execute", *copies, WINE_HOME=folder)
        seconds = {name: float(took) for name, took in re.findall(r"^(\S+) .* (\d+) s$", lines, re.MULTILINE)}
        for chapter, its_times in times.items():
            its_times.append(sum(seconds[path.stem] for path in notebooks if path.parent.name == chapter))
    write_results("notebooks", {"chapter_seconds": {chapter: spread(found) for chapter, found in times.items()}})


def bench_start() -> None:
    def seconds(chapter: int) -> float:
        with tempfile.TemporaryDirectory() as home:
            began = time.perf_counter()
            output_of("make", "start", f"CH={chapter}", WINE_HOME=home)
            return time.perf_counter() - began

    times = {chapter: spread([seconds(chapter) for _ in range(REPEATS)]) for chapter in chapters.CHAPTERS}
    write_results("start", {"seconds": times})


def bench_tests() -> None:
    began = time.perf_counter()
    last = output_of("make", "test").splitlines()[-1]
    minutes = round((time.perf_counter() - began) / 60, 1)
    quick = sum(int(count) for count in re.findall(r"(\d+) (?:passed|skipped)", last))
    listed = output_of(sys.executable, "-m", "pytest", "--collect-only", "--quiet", "-m", "not docs")
    write_results("tests", {"minutes": minutes, "quick": quick, "all": listed.count("::")})


def bench_walk() -> None:
    lines = output_of("make", "check-docs", PYTEST_ADDOPTS="-rP")  # shows the output of passed tests
    walked: dict[str, dict[str, float]] = {}
    for seconds, page, command in re.findall(r"^walked ([\d.]+) s (\S+): (.+)$", lines, re.MULTILINE):
        walked.setdefault(page, {})[command] = float(seconds)
    write_results("walk", {"seconds": walked})


def bench_simulation() -> None:
    times, summaries = [], []
    for _ in range(REPEATS):
        with tempfile.TemporaryDirectory() as home:
            started = time.perf_counter()
            output_of(sys.executable, "-m", "monitoring.simulation", WINE_HOME=home)
            times.append(time.perf_counter() - started)
            summaries.append(json.loads(Path(home, ".local", "simulation", "summary.json").read_text()))
    same = all(summary == summaries[0] for summary in summaries)
    write_results("simulation", {"seconds": spread(times), "all_the_same": same, **summaries[0]})


def bench_sample() -> None:
    config = settings()
    dataset, sample = sources.load_dataset(config), sources.sample("to measure").table
    assert dataset.source != "sample", "set WINE_DATA to a folder with the real data"
    real, made = splits.distinct_rows(dataset.table), splits.distinct_rows(sample)
    extra_trees = build("extra_trees_tuned", config.seed)
    within = cross_predict(extra_trees, made, splits.folds(made, config.seed))
    on_real = predict(fit(extra_trees, made), real)
    columns, pairs = list(MEASUREMENTS), [*MEASUREMENTS, TARGET]
    of_sample, of_real = (cast(Any, table).groupby(TYPE) for table in (made, real))
    means = of_sample[columns].mean() / of_real[columns].mean() - 1
    correlations = of_sample[pairs].corr() - of_real[pairs].corr()
    results = {
        "rows": len(sample),
        "distinct_rows": made[TYPE].value_counts().to_dict(),
        "equal_to_a_real_wine": int(splits.leaked(real, made).sum()),
        "trained_on_sample_tested_on_real": {"r2": r2_score(real[TARGET], on_real)},
        "sample_in_5_folds": {"r2": r2_score(made[TARGET], within)},
        "largest_relative_difference_of_a_column_mean": means.abs().max(axis=None),
        "largest_difference_of_a_correlation": correlations.abs().max(axis=None),
    }
    write_results("sample", results)


PARTS = {
    "scores": bench_scores, "intervals": bench_intervals, "run": bench_run, "overhead": bench_overhead,
    "setup": bench_setup, "group": bench_group, "notebooks": bench_notebooks, "start": bench_start,
    "tests": bench_tests, "walk": bench_walk, "simulation": bench_simulation, "sample": bench_sample,
}  # fmt: skip

if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as home:
        os.environ.setdefault("WINE_HOME", home)
        for part in sys.argv[1:] or PARTS:
            PARTS[part]()
