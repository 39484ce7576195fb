import os
import signal
import subprocess
import threading
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
from faults import largest_file
from sklearn.metrics import root_mean_squared_error as rmse

from wine_quality import external_memory, splits
from wine_quality.config import settings
from wine_quality.errors import DataError, EngineError
from wine_quality.external_memory import Cache, fit_cached, rounds_done, write_cache
from wine_quality.models import build, fit, predict
from wine_quality.processes import module
from wine_quality.schema import MEASUREMENTS
from wine_quality.sources import load_pair, sample

NAME = "xgboost_tuned"


def with_some_blanks(rows: pd.DataFrame) -> pd.DataFrame:
    blank = np.random.default_rng(1).random((len(rows), len(MEASUREMENTS))) < 0.01
    return rows.assign(**rows[list(MEASUREMENTS)].mask(blank))


def cached(rows: pd.DataFrame, folder: Path) -> Cache:
    folder.mkdir(parents=True)
    return write_cache((rows.iloc[start : start + 300] for start in range(0, len(rows), 300)), folder, len(rows))


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    return with_some_blanks(splits.distinct_rows(sample("a test").table).head(2000))


@pytest.fixture
def small_batches(monkeypatch):
    monkeypatch.setattr(external_memory, "BATCH", 500)


@pytest.mark.slow
def test_training_on_cached_rows_gives_the_model_of_all_rows_at_once(tmp_path, small_batches, real_folder):
    train, validation, _ = load_pair(settings(data=str(real_folder)))
    rows = with_some_blanks(splits.distinct_rows(pd.concat([validation, train], ignore_index=True)))
    cache = cached(rows, tmp_path / "rows")
    assert len(cache.paths) > 5
    pipeline, resumed = fit_cached(NAME, 42, cache, tmp_path / "model")
    at_once = fit(build(NAME, 42), rows)
    assert resumed == 0
    means = [one["preprocess"].named_transformers_["measurements"].statistics_ for one in (pipeline, at_once)]
    np.testing.assert_allclose(*means, rtol=1e-12)
    assert predict(pipeline, rows) == pytest.approx(predict(at_once, rows), abs=1e-6)


@pytest.mark.slow
def test_a_killed_training_resumes_from_its_checkpoint_and_the_model_is_as_good(tmp_path, small_batches, rows, caplog):
    folder = tmp_path / "model"
    killer = threading.Thread(target=kill_training, args=(folder,))
    killer.start()
    with caplog.at_level("INFO", "wine_quality.train"):
        pipeline, resumed = fit_cached(NAME, 42, cached(rows, tmp_path / "rows"), folder)
    killer.join()
    assert "the training process was killed" in caplog.text
    assert f"resumes from the checkpoint of round {resumed} of 250" in caplog.text
    assert resumed % external_memory.CHECKPOINT == 0 < resumed
    assert pipeline["model"].get_booster().num_boosted_rounds() == 250
    assert len(set(pipeline["model"].get_booster().get_dump())) == 250  # nothing is drawn twice
    of_one_go = rmse(rows["quality"], predict(fit(build(NAME, 42), rows), rows))
    assert rmse(rows["quality"], predict(pipeline, rows)) == pytest.approx(of_one_go, rel=0.1)


def kill_training(folder: Path) -> None:
    """Kill the training process as soon as it has written a checkpoint."""
    while not (folder / external_memory.MODEL).exists():
        time.sleep(0.005)
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):  # another child may have ended
            if str(folder) in child.cmdline():
                child.kill()


@pytest.mark.slow
def test_a_training_that_is_killed_repeatedly_gives_a_one_line_error(tmp_path, rows, monkeypatch):
    monkeypatch.setattr(external_memory, "module", lambda *_: ["sh", "-c", "kill -9 $$"])
    with pytest.raises(EngineError, match=r"the training process was killed 3 times\. Is there enough memory"):
        fit_cached(NAME, 42, cached(rows, tmp_path / "rows"), tmp_path / "model")


@pytest.mark.slow
def test_a_training_process_ends_with_its_parent(tmp_path, rows):
    cached(pd.concat([rows] * 50), tmp_path / "rows")
    code = (
        "import sys, pandas as pd; from pathlib import Path; from wine_quality.external_memory import *;"
        "folder = Path(sys.argv[1]); paths = sorted((folder / 'rows').glob('*.npy'));"
        "fit_cached('xgboost_tuned', 1, Cache(paths, np.full(12, 0.5), None), folder / 'model')"
    )
    parent = subprocess.Popen([*module("x")[:1], "-c", code, str(tmp_path)])
    while not (tmp_path / "model" / external_memory.MODEL).exists():
        assert parent.poll() is None
        time.sleep(0.05)
    children = psutil.Process(parent.pid).children(recursive=True)
    assert children
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    _, alive = psutil.wait_procs(children, timeout=20)
    assert not alive


@pytest.mark.slow
def test_a_full_disk_while_xgboost_writes_gives_a_one_line_error(tmp_path, rows):
    cache = cached(rows, tmp_path / "rows")
    with largest_file(5000), pytest.raises(DataError) as caught:
        fit_cached(NAME, 42, cache, tmp_path / "model")
    assert "model: the training failed (" in str(caught.value)
    assert "FileStream.Write incomplete" in str(caught.value)
    assert "Free some space" in str(caught.value)
    assert rounds_done(tmp_path / "model") == 0


def test_a_full_disk_while_caching_gives_a_one_line_error(tmp_path, rows):
    with largest_file(1000), pytest.raises(DataError, match=r"rows: cannot be used \(.*\). Free some space"):
        cached(rows, tmp_path / "rows")


def test_too_little_disk_space_is_reported_before_anything_is_written(tmp_path):
    with pytest.raises(DataError, match=r"needs 8e\+14 GB, but only .* GB are free. Free some space"):
        write_cache([], tmp_path, 10**22)
