"""What is tried again, and what a kept result hangs on."""

from types import SimpleNamespace

import pytest

from orchestration import policies
from orchestration.policies import same_work, world_failed
from wine_quality.errors import DataError, DownloadError, StorageError, StorageUnavailable, TrackingError


def key(wines, seed=42, task="search"):
    return same_work(SimpleNamespace(task=SimpleNamespace(name=task)), {"train": wines, "seed": seed})


def test_the_same_wine_and_parameters_are_the_same_work(wines):
    assert key(wines) == key(wines.copy())


def test_another_wine_seed_or_task_is_other_work(wines):
    more = wines.assign(alcohol=wines["alcohol"] + 0.1)
    assert len({key(wines), key(more), key(wines, seed=7), key(wines, task="baseline")}) == 4


@pytest.mark.parametrize("name", ["code_checksum", "version"])
def test_a_change_of_the_code_or_of_a_library_is_other_work(wines, monkeypatch, name):
    before = key(wines)
    monkeypatch.setattr(policies, name, lambda *_: "changed")
    assert key(wines) != before


def failed_with(error):
    return SimpleNamespace(result=lambda raise_on_failure: error)


@pytest.mark.parametrize("error", [DownloadError("slow"), StorageUnavailable("away"), TrackingError("locked")])
def test_what_the_world_outside_spoils_is_tried_again_and_told(error, caplog):
    assert world_failed(None, None, failed_with(error))
    assert f"{error} Trying again." in caplog.text


@pytest.mark.parametrize("error", [DataError("bad wine"), StorageError("wrong keys"), ValueError("a bug")])
def test_what_would_fail_the_same_way_again_is_not(error, caplog):
    assert not world_failed(None, None, failed_with(error))
    assert caplog.text == ""
