"""Which failures are retried, and what the key of a cached result depends on."""

import inspect
from pathlib import Path
from types import SimpleNamespace

import pytest
from prefect import Flow, Task
from prefect.cache_policies import NO_CACHE

from deployment import batch
from monitoring import monitor
from orchestration import policies, train
from orchestration.policies import cache_key, inputs_checksum, is_transient
from wine_quality import engines
from wine_quality.config import ROOT, Settings
from wine_quality.errors import DataError, DownloadError, StorageError, StorageUnavailable, TrackingError
from wine_quality.tuning import Candidate


def key(wines, seed=42, task="search"):
    return cache_key(SimpleNamespace(task=SimpleNamespace(name=task)), {"train": wines, "seed": seed})


def test_the_key_depends_on_the_data_the_parameters_and_the_task(wines):
    more = wines.assign(alcohol=wines["alcohol"] + 0.1)
    assert key(wines) == key(wines.copy())
    assert len({key(wines), key(more), key(wines, seed=7), key(wines, task="baseline")}) == 4


@pytest.mark.parametrize(("name", "changed"), [("CODE_SHA256", "changed"), ("version", lambda _: "changed")])
def test_a_change_of_the_code_or_of_a_library_changes_the_key(wines, monkeypatch, name, changed):
    before = key(wines), inputs_checksum((wines, wines), Candidate("svr", {"C": 1.0}), 42)
    monkeypatch.setattr(policies, name, changed)
    after = key(wines), inputs_checksum((wines, wines), Candidate("svr", {"C": 1.0}), 42)
    assert not set(before) & set(after)


def test_code_that_is_upgraded_during_a_run_does_not_change_the_key_of_its_results(wines, monkeypatch):
    before = key(wines)
    monkeypatch.setattr(Path, "read_bytes", lambda _: b"another release")
    assert engines.code_checksum() != engines.CODE_SHA256
    assert key(wines) == before


def test_the_checksum_of_the_inputs_depends_on_data_split_parameters_and_seed(wines):
    sets, choice = (wines[:4], wines[4:]), Candidate("svr", {"C": 1.0, "gamma": 0.1})
    same = inputs_checksum(sets, Candidate("svr", {"gamma": 0.1, "C": 1.0}), 42)
    others = [
        inputs_checksum((wines[:3], wines[3:]), choice, 42),
        inputs_checksum(sets, Candidate("svr", {"C": 1.0, "gamma": 0.2}), 42),
        inputs_checksum(sets, Candidate("linear", {}), 42),
        inputs_checksum(sets, choice, 43),
    ]
    assert inputs_checksum(sets, choice, 42) == same
    assert len({same, *others}) == 5


@pytest.mark.parametrize("flow_module", [train, batch, monitor])
def test_no_step_takes_the_settings_and_only_those_with_a_cached_result_make_prefect_pickle_arguments(flow_module):
    steps = [one for one in vars(flow_module).values() if isinstance(one, Task | Flow)]
    cached = {one.name for one in steps if isinstance(one, Task) and one.cache_policy != NO_CACHE}
    assert cached == ({"baseline", "search"} if flow_module is train else set())
    taken = [parameter for one in steps for parameter in inspect.signature(one.fn).parameters.values()]
    assert not [parameter for parameter in taken if parameter.annotation is Settings or parameter.name == "config"]


def test_the_table_of_stages_names_every_task_and_says_whether_it_is_cached_and_retried():
    page = (ROOT / "orchestration" / "README.md").read_text()
    table = page.split("| subflow | task |")[1].split("\n\n")[0].splitlines()[2:]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
    tasks = [one for one in vars(train).values() if isinstance(one, Task)]
    assert {name: (cached, retried) for _, name, _, _, cached, retried in rows} == {
        one.name: ("yes" if one.persist_result else "", "yes" if one.retries else "") for one in tasks
    }


TRANSIENT = [DownloadError("slow"), StorageUnavailable("away"), TrackingError("locked")]


@pytest.mark.parametrize("error", [*TRANSIENT, DataError("bad wine"), StorageError("wrong keys"), ValueError("a bug")])
def test_only_transient_failures_are_retried_and_logged(error, caplog):
    failed = SimpleNamespace(result=lambda raise_on_failure: error)
    assert is_transient(None, None, failed) is (error in TRANSIENT)
    assert (f"{error} Retrying." in caplog.text) is (error in TRANSIENT)
    assert bool(caplog.text) is (error in TRANSIENT)
