"""Every command and every piece of Python in a README works: `make check-docs`.

A reader with a fresh checkout, and the real data if it is available, goes through each README from top to bottom. The
output shown below a command is compared with what the command prints.
"""

import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import requests
from conftest import FOREIGN, REAL_DATA
from reader import ID, Reader, checkout_at
from readmes import COMMAND, OUTPUT, PYTHON, READMES, Block, blocks
from servers import wait_until
from uci import uci_server
from wiretap import foreign

from chapters import CHAPTERS
from deployment.openapi import EXAMPLE
from wine_quality import sources, splits
from wine_quality.config import ROOT
from wine_quality.download import UCI_SHA256
from wine_quality.schema import FEATURES

pytestmark = pytest.mark.docs

START = {folder: chapter for chapter, folder in CHAPTERS.items() if chapter > 2} | {"models": 3}  # before its page
ONLY_QUICK = "-m 'not slow and not docs' -p no:cacheprovider"  # all of them are what `make test` is for
SCRIPT = ".venv/bin/python - <<'END'\n{}END"
RUN = (COMMAND, PYTHON)
LEAK = "train_wine_quality("  # is refused, as the README says
Before = Callable[[Reader, Block], Block]


@pytest.fixture(scope="module")
def uci() -> Iterator[str]:
    """The address of an archive of the real data, like UCI's."""
    with uci_server({name: (REAL_DATA / name).read_bytes() for name in UCI_SHA256}) as server:
        yield server.url


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """A checkout that is set up: its packages come from an index, and nothing is downloaded after that."""
    checkout = checkout_at(tmp_path_factory.mktemp("reader") / "wine-quality")
    subprocess.run(["make", "setup-scaling"], cwd=checkout, check=True)
    return checkout


@pytest.fixture
def reader(checkout, tmp_path, request) -> Iterator[Reader]:
    """A reader in that checkout, without the files of the pages before."""
    real = REAL_DATA.is_dir()
    wine = {"WINE_UCI_URL": request.getfixturevalue("uci")} if real else {"WINE_DATA": "sample"}
    jupyter = tmp_path / "jupyter"
    jupyter.mkdir()
    (jupyter / "jupyter_server_config.py").write_text("c.ServerApp.allow_root = True\nc.ServerApp.open_browser = False")
    plain = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
    own = {"JUPYTER_CONFIG_DIR": str(jupyter), "PYTEST_ADDOPTS": ONLY_QUICK, "WINE_TRIALS": "6"}
    reader = Reader(checkout, plain | own | wine, true_figures=real)
    reader.contacts.unlink(missing_ok=True)  # those of another page
    reader.runs("make clean || true", typed="yes\n")
    yield reader
    reader.stops()
    assert foreign(reader.contacts) == []


def files_come_in(reader: Reader, block: Block) -> Block:
    incoming = reader.checkout / ".local" / "s3" / "wine-quality" / "incoming"
    incoming.mkdir(parents=True)
    wines = sources.sample("a test").table[FEATURES].head(500)
    wines.to_csv(incoming / "monday.csv", index=False)
    wines.loc[:2, "alcohol"] = [99.0, 98.0, 97.0]
    wines.head(20).to_parquet(incoming / "tuesday.parquet")
    return block


def a_wine_was_scored(reader: Reader, block: Block) -> Block:
    reader.types(Block(COMMAND, "make serve", 0))
    response = requests.post(f"http://127.0.0.1:{reader.ports['8000']}/predict", json=EXAMPLE, timeout=30).json()
    database = reader.checkout / "predictions.db"
    wait_until(lambda: response["id"].encode() in database.read_bytes(), "the prediction in the database")
    (first,) = set(re.findall(ID, block.text))
    return replace(block, text=block.text.replace(first, response["id"]))


THREE_VERSIONS = """
from wine_quality import registry, tracking
from wine_quality.config import settings
store = tracking.open_store(settings())
first = registry.champion(store)
for _ in range(2):
    store.client.create_model_version(first.name, first.source, first.run_id, dict(first.tags))
registry.promote(store, '3')
"""


def a_third_version_is_champion(reader: Reader, block: Block) -> Block:
    reader.runs(SCRIPT.format(THREE_VERSIONS))
    return block


def a_leaking_pair(reader: Reader, block: Block) -> Block:
    if reader.true_figures:
        for name in ("train_wine_data.csv", "test_wine_data.csv"):
            shutil.copy(REAL_DATA / name, reader.checkout)
    else:
        train, validation = sources.kaggle_pair(splits.distinct_rows(sources.sample("a test").table), 42)
        train.to_csv(reader.checkout / "train_wine_data.csv")
        validation.to_csv(reader.checkout / "test_wine_data.csv", index=False)
    return block


def anybody_may_pass_through(reader: Reader, block: Block) -> Block:
    """Let PostgreSQL's own user, as which it runs for root, reach the checkout of a test."""
    for folder in list(reader.checkout.parents)[:3]:
        folder.chmod(folder.stat().st_mode | 0o011)
    return block


BEFORE: dict[str, Before] = {
    "make cluster\n": anybody_may_pass_through,
    "make score\n": files_come_in,
    "labels.add": a_wine_was_scored,
    "make rollback\n": a_third_version_is_champion,
    LEAK: a_leaking_pair,
}


@pytest.mark.parametrize("page", list(filter(blocks, READMES)), ids=lambda page: str(page.relative_to(ROOT)))
def test_what_stands_there_is_what_happens(page, reader):
    if chapter := START.get(page.parent.name):
        reader.runs(f"make start CH={chapter}")
    printed = ""
    for block in blocks(page):
        prepare = next((prepare for words, prepare in BEFORE.items() if words in block.text), None)
        if prepare and block.language in RUN:
            block = prepare(reader, block)
        began = time.perf_counter()  # benchmarks.bench reads the line below
        if block.language == COMMAND:
            printed = reader.types(block)
        elif block.language == PYTHON:
            printed = reader.runs(("! " if LEAK in block.text else "") + SCRIPT.format(block.text))
        elif block.language == OUTPUT:
            reader.sees(printed, block.text)
        if block.language in RUN:
            first = block.text.splitlines()[0]
            print(f"walked {time.perf_counter() - began:.1f} s {page.relative_to(ROOT)}: {first}")
