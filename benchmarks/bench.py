"""Measure the main job on real wine: `make bench WINE_DATA=folder`. Each part writes `results/<part>.json`.

The parts, all by default, or those named on the command line:
scores (of every model, by cross-validation), run (`make run`: seconds and memory), overhead (of the flow over plain
functions), setup (`make setup` in a fresh clone, packages cached), notebooks (`make notebooks`, on copies, in a home
of their own), start (`make start` of each chapter from nothing), tests (`make test`), walk (the commands of the
READMEs one after the other, as `make check-docs` runs them).
"""

import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

import chapters
from benchmarks.machine import memory_gb, write_results
from notebooks.execute import CHAPTERS, all_notebooks
from wine_quality import sources, splits
from wine_quality.config import ROOT, settings
from wine_quality.metrics import scores
from wine_quality.models import BASELINES, build, cross_predict
from wine_quality.schema import TARGET

REPEATS = 3
TOLD = ("check", "split", "baseline", "search", "score", "register", "push")  # what the README shows of a first run


def spread(values: list[float], digits: int = 2) -> dict[str, float]:
    """Return the least, the median and the most of repeated measurements."""
    return {
        "min": round(min(values), digits),
        "median": round(statistics.median(values), digits),
        "max": round(max(values), digits),
        "repeats": len(values),
    }


def printed(*command: str, **environment: str) -> str:
    """Run a command and return what it prints; where it fails, show that and stop."""
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **environment}, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"{done.stdout}\nerror: {' '.join(command)} failed")
    return done.stdout


def bench_scores() -> None:
    config = settings()
    distinct = splits.distinct_rows(sources.load_dataset(config).table)
    parts, actual = splits.folds(distinct, config.seed), distinct[TARGET].to_numpy()
    rows = {
        name: {"folds": scores(actual, cross_predict(build(name, config.seed), distinct, parts))} for name in BASELINES
    }
    write_results("scores", {"wines": {"distinct": len(distinct)}, "seed": config.seed, "models": rows})


@dataclass(frozen=True)
class Run:
    """A run of `make run`: its seconds in all, those from its line `load` to its line `push`, and its lines by name."""

    seconds: float
    work: float
    lines: dict[str, str]


def timed_run() -> Run:
    """Run `make run`, and return what it took and what it printed."""
    started, seen = time.perf_counter(), {}
    with make_run() as process:
        for line in process.stdout:
            name, _, told = line.partition(" ")
            seen.setdefault(name, (time.perf_counter(), told.strip()))
    assert process.returncode == 0
    work = seen["push"][0] - seen["load"][0]
    return Run(time.perf_counter() - started, work, {name: seen[name][1] for name in TOLD})


def peak_memory() -> float:
    """Run `make run`, and return the most memory of it and its children at once in GB, a shared page counted once."""
    peak = 0.0
    with make_run() as process:
        while process.poll() is None:
            with suppress(psutil.NoSuchProcess):
                peak = max(peak, memory_gb(process.pid))
            time.sleep(0.2)
    assert process.returncode == 0
    return peak


def make_run() -> subprocess.Popen:
    """Start `make run`, its lines to be read as they come."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(["make", "run"], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)


def bench_run() -> None:
    first, *later = [timed_run() for _ in range(1 + REPEATS)]
    write_results(
        "run",
        {
            "first_run_seconds": round(first.seconds, 1),
            "first_run_seconds_from_load_to_push": round(first.work, 1),
            "seconds": spread([run.seconds for run in later]),
            "seconds_from_load_to_push": spread([run.work for run in later]),
            "peak_memory_gb": spread([peak_memory() for _ in range(REPEATS)]),
            "printed": first.lines,
        },
    )


def bench_overhead() -> None:
    from orchestration import train  # here, because the other benchmarks need no Prefect

    kinds = type(train.load), type(train.train_wine_quality)
    parts = {name: part for name, part in vars(train).items() if isinstance(part, kinds)}

    def seconds(as_flow: bool) -> float:
        for name, part in parts.items():
            setattr(train, name, part if as_flow else part.fn)
        started = time.perf_counter()
        train.train_wine_quality()
        return time.perf_counter() - started

    seconds(as_flow=True)  # starts Prefect's server and makes MLflow's store
    pairs = [(seconds(as_flow=True), seconds(as_flow=False)) for _ in range(REPEATS)]
    write_results(
        "overhead",
        {
            "flow_seconds": spread([flow for flow, _ in pairs]),
            "plain_seconds": spread([plain for _, plain in pairs]),
            "flow_over_plain": spread([flow / plain for flow, plain in pairs]),
        },
    )


def bench_setup() -> None:
    def one() -> tuple[float, float]:
        with tempfile.TemporaryDirectory() as folder:
            clone = Path(folder) / "clone"
            subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)
            started = time.perf_counter()
            subprocess.run(["make", "setup"], cwd=clone, check=True, stdout=subprocess.DEVNULL)
            seconds = time.perf_counter() - started
            used = subprocess.run(["du", "-sk", clone / ".venv"], capture_output=True, text=True, check=True).stdout
            return seconds, int(used.split()[0]) * 1024 / 1e9

    times = [one() for _ in range(REPEATS)]
    write_results(
        "setup",
        {"seconds_with_packages_cached": spread([s for s, _ in times]), "environment_gb": round(times[0][1], 2)},
    )


def bench_notebooks() -> None:
    notebooks = all_notebooks()

    def one() -> dict[str, float]:
        with tempfile.TemporaryDirectory() as folder:
            copies = [shutil.copy(path, folder) for path in notebooks]
            told = printed(sys.executable, "-m", "notebooks.execute", *copies, WINE_HOME=folder)
        return {name: float(seconds) for name, seconds in re.findall(r"^(\S+) .* (\d+) s$", told, re.MULTILINE)}

    runs = [one() for _ in range(REPEATS)]
    seconds = {name: spread([run[name] for run in runs]) for name in runs[0]}
    by_chapter = {
        chapter: spread([sum(run[path.stem] for path in notebooks if path.parent.name == chapter) for run in runs])
        for chapter in CHAPTERS
    }
    write_results("notebooks", {"seconds": seconds, "chapter_seconds": by_chapter})


def bench_start() -> None:
    def one(chapter: int) -> float:
        with tempfile.TemporaryDirectory() as home:
            began = time.perf_counter()
            printed("make", "start", f"CH={chapter}", WINE_HOME=home)
            return time.perf_counter() - began

    write_results(
        "start", {"seconds": {chapter: spread([one(chapter) for _ in range(REPEATS)]) for chapter in chapters.CHAPTERS}}
    )


def bench_tests() -> None:
    began = time.perf_counter()
    last = printed("make", "test").splitlines()[-1]
    minutes = round((time.perf_counter() - began) / 60, 1)
    quick = sum(int(count) for count in re.findall(r"(\d+) (?:passed|skipped)", last))
    listed = printed(sys.executable, "-m", "pytest", "--collect-only", "--quiet", "-m", "not docs")
    every = sum("::" in line for line in listed.splitlines())
    write_results("tests", {"minutes": minutes, "quick": quick, "all": every})


def bench_walk() -> None:
    told = printed("make", "check-docs", PYTEST_ADDOPTS="-rP")  # shows what tests that passed have printed
    walked: dict[str, dict[str, float]] = {}
    for seconds, page, command in re.findall(r"^walked ([\d.]+) s (\S+): (.+)$", told, re.MULTILINE):
        walked.setdefault(page, {})[command] = float(seconds)
    write_results("walk", {"seconds": walked})


PARTS: dict[str, Any] = {
    "scores": bench_scores, "run": bench_run, "overhead": bench_overhead, "setup": bench_setup,
    "notebooks": bench_notebooks, "start": bench_start, "tests": bench_tests,
    "walk": bench_walk,
}  # fmt: skip

if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as home:
        os.environ.setdefault("WINE_HOME", home)
        os.environ["PREFECT_TASKS_REFRESH_CACHE"] = "true"  # every run is a first one
        for part in sys.argv[1:] or PARTS:
            PARTS[part]()
