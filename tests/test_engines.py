"""Units of work on each engine, with real processes that are killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from wine_quality.config import ROOT, settings
from wine_quality.engines import InProcess, Processes, Shared, fingerprint, open_engine, run_on_worker
from wine_quality.errors import EngineError, SettingsError


def square(number: int) -> int:
    return number**2


def fail(number: int) -> None:
    raise ValueError(f"unit {number}")


def kill_first_time(marker: Path) -> int:
    """Kill the process that this runs in, unless an earlier try has."""
    if not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return os.getpid()


def kill_each_time() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def cores_of_libraries() -> tuple[int, int]:
    import joblib
    import numpy  # noqa: F401
    from threadpoolctl import threadpool_info

    return joblib.cpu_count(), max(pool["num_threads"] for pool in threadpool_info())


def made_by(folder: Path) -> int:
    """Note that a process has made a shared value, which is its id."""
    (folder / str(os.getpid())).touch(exist_ok=False)
    return os.getpid()


def process_of(shared: Shared) -> tuple[int, int]:
    time.sleep(0.1)
    return shared.get(), os.getpid()


def results(engine, count: int) -> dict[int, object]:
    return dict(engine.next_done() for _ in range(count))


def test_this_process_runs_units_in_the_order_in_which_they_came():
    engine = InProcess()
    for number in (3, 1, 2):
        engine.submit(number, square, number)
    assert [engine.next_done() for _ in range(3)] == [(3, 9), (1, 1), (2, 4)]


def test_an_error_of_a_unit_is_raised_where_its_result_is_asked_for():
    engine = InProcess()
    engine.submit(5, fail, 5)
    with pytest.raises(ValueError, match="unit 5"):
        engine.next_done()


def test_a_shared_value_is_made_once_until_another_one_is_needed(tmp_path):
    made = Shared(str(tmp_path), made_by, (tmp_path,))
    assert made.get() == made.get() == os.getpid()
    other = Shared("other", square, (3,))
    other.hold(10)
    assert other.get() == 10


def test_a_worker_with_another_code_is_refused_and_both_are_named():
    assert run_on_worker(fingerprint(), square, 3) == 9
    with pytest.raises(EngineError, match=r"differs from its client: code .*, not abc, numpy .*, not 1\."):
        run_on_worker(fingerprint() | {"code": "abc", "numpy": "1"}, square, 3)


def test_the_settings_name_the_engine(monkeypatch):
    with open_engine(settings()) as engine:
        assert isinstance(engine, InProcess)
    with open_engine(settings(workers=2)) as engine:
        assert isinstance(engine, Processes)
        assert engine.workers == 2


@pytest.mark.parametrize("address", ["tcp://192.0.2.1:8786", "192.0.2.1:8786", "tcp://example.org:8786"])
def test_a_cluster_elsewhere_without_encryption_is_refused_before_anything_is_sent(address):
    with pytest.raises(SettingsError, match=r"WINE_DASK=.*tls://"), open_engine(settings(dask=address)):
        pass


@pytest.mark.slow
class TestProcesses:
    @pytest.fixture
    def engine(self):
        engine = Processes(2)
        yield engine
        engine.close()

    def test_they_run_units_side_by_side_with_one_thread_each(self, engine, tmp_path):
        made = Shared(str(tmp_path), made_by, (tmp_path,))
        for number in range(8):
            engine.submit(number, process_of, made)
        ran = results(engine, 8)
        assert set(ran) == set(range(8))
        assert all(maker == runner for maker, runner in ran.values())
        assert len({runner for _, runner in ran.values()} - {os.getpid()}) == 2
        engine.submit(8, cores_of_libraries)
        assert engine.next_done() == (8, (1, 1))

    def test_a_unit_whose_process_is_killed_runs_again_and_none_is_lost(self, engine, tmp_path):
        for number in range(4):
            engine.submit(number, square, number)
        engine.submit(4, kill_first_time, tmp_path / "marker")
        engine.submit(5, square, 5)
        ran = results(engine, 6)
        assert ran.pop(4) != os.getpid()
        assert ran == {number: number**2 for number in (0, 1, 2, 3, 5)}

    def test_a_unit_that_ends_each_process_is_named_and_the_others_are_not_to_blame(self, engine):
        for number in range(12):
            engine.submit(number, *((kill_each_time,) if number == 7 else (square, number)))
        with pytest.raises(EngineError, match="unit 7 of the work ended its process each time"):
            results(engine, 12)

    def test_an_error_of_a_unit_leaves_the_others_alone(self, engine):
        engine.submit(0, fail, 0)
        with pytest.raises(ValueError, match="unit 0"):
            engine.next_done()
        engine.submit(1, square, 1)
        assert engine.next_done() == (1, 1)


@pytest.mark.slow
def test_the_main_job_imports_no_dask():
    script = "import sys, orchestration.train, deployment.batch; sys.exit('distributed' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT).returncode == 0
