"""Start with any chapter: create what it needs from the earlier chapters, unless that is there already.

Run it with `python -m chapters.start 4`, or `make start CH=4`.
"""

import os
import sys
from contextlib import nullcontext

import httpx

from chapters import CHAPTERS, chapter_of
from deployment.schemas import MAX_ROWS
from orchestration.prefect_server import assert_answers
from orchestration.startup import is_up, prepare_home
from wine_quality import predictions, registry, sources, splits, tracking
from wine_quality.command import exit_code
from wine_quality.config import Settings
from wine_quality.processes import module, run_module, server
from wine_quality.schema import FEATURES


def run(*words: str) -> None:
    """Run a command of an earlier chapter."""
    print(f"start     {words[-1]}", flush=True)
    run_module(*words)


def train(config: Settings) -> None:
    """Train a first champion if there is none."""
    with tracking.store(config) as store:
        has_champion = registry.champion(store) is not None
    if not has_champion:
        run("orchestration.run", "orchestration.train:train_wine_quality")


def predict(config: Settings) -> None:
    """Let the service score the gate set, unless predictions are stored already: monitoring needs some."""
    if predictions.count(config.predictions_uri):
        return
    print("start     deployment.serve", flush=True)
    _, gate_set = splits.train_gate_split(splits.distinct_rows(sources.load_dataset(config).table))
    gate_set = gate_set.head(MAX_ROWS)
    with server(module("deployment.serve"), [config.serve_port], config.local / "serve.log", {}):
        body, as_json = gate_set[FEATURES].to_json(orient="records"), {"Content-Type": "application/json"}
        address = f"http://127.0.0.1:{config.serve_port}/predict"
        response = httpx.post(address, content=body, headers=as_json, timeout=60).raise_for_status()
    print(f"scored    {len(response.json()['predictions']):,} rows", flush=True)


STEPS = {3: train, 4: lambda _: run("orchestration.deploy"), 5: predict}  # each by the first chapter that needs it


def main() -> None:
    """Create what is missing, step by step, and print what to read."""
    config, chapter = prepare_home(), chapter_of(sys.argv[1:], "start")
    if url := os.environ.get("PREFECT_API_URL"):
        assert_answers(url)
    dataset = sources.load_dataset(config)
    print(f"data      {len(dataset.table):,} rows: {dataset.why}", flush=True)
    steps = [step for first, step in STEPS.items() if chapter >= first]
    # MLflow first, because two processes that create its database at once clash
    ports = [config.mlflow_port, config.prefect_port]
    ready = server(module("orchestration.up"), ports, config.local / "start.log", {})
    alone = bool(steps) and not is_up(config)
    with ready if alone else nullcontext():
        for step in steps:
            step(config)
    print(f"ready     for chapter {chapter}: read {CHAPTERS[chapter]}/README.md")
    if alone:
        print("servers   stopped again; make up starts them")


if __name__ == "__main__":
    sys.exit(exit_code(main))
