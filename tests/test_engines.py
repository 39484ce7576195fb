"""Engines on real processes and a real Dask cluster: order, threads, killed workers, a scheduler that goes away.

The tests that kill take up to 20 seconds each, because what they wait for is a time limit.
"""

import os
import shutil
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import units
from servers import wait_until

from scaling.certificates import certificates
from wine_quality.config import ROOT, settings
from wine_quality.engines import InProcess, OnDask, Processes, Shared, open_engine, run_all
from wine_quality.errors import DataError, EngineError, SettingsError

TESTS = str(Path(units.__file__).parent)


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """Return what starts a cluster; its workers find the units of the tests."""
    pytest.importorskip("dask", reason="needs the group scaling")
    from dask_cluster import dask_cluster

    return partial(dask_cluster, tmp_path / "cluster")


@pytest.fixture
def processes():
    engine = Processes(2)
    yield engine
    engine.close()


def on_dask(address: str, patience: float = 60) -> OnDask:
    return OnDask(address, Path("nowhere"), patience)


def results(engine, count: int) -> dict:
    return dict(engine.next_done() for _ in range(count))


def test_in_process_units_run_in_the_order_they_are_submitted():
    with open_engine(settings()) as engine:
        assert isinstance(engine, InProcess)
        for number in (3, 1, 2):
            engine.submit(number, units.square, number)
        assert [engine.next_done() for _ in range(3)] == [(3, 9), (1, 1), (2, 4)]


def test_a_shared_value_is_computed_once_and_again_after_another_one():
    made = []
    first, second = (Shared(key, lambda key=key: made.append(key) or key) for key in ("first", "second"))
    assert [first.get(), first.get(), second.get(), first.get()] == ["first", "first", "second", "first"]
    assert made == ["first", "second", "first"]


@pytest.mark.parametrize(
    "address", ["tcp://10.0.0.7:8786", "tcp://127.0.0.1.example:8786", "10.0.0.7:8786", "udp://x:1"]
)
def test_an_address_without_encryption_is_refused_unless_it_is_on_loopback(address):
    pytest.importorskip("dask", reason="needs the group scaling")
    with pytest.raises(SettingsError, match=r"plain tcp:// is for loopback.*Use tls://"):
        on_dask(address)


@pytest.mark.parametrize("address", ["tls://x", "tls://127.0.0.1:abc", "tls://127.0.0.1:99999"])
def test_an_address_without_a_valid_port_gives_a_one_line_error(tmp_path, address):
    pytest.importorskip("dask", reason="needs the group scaling")
    with pytest.raises(
        EngineError, match=rf"^WINE_DASK={address}: no scheduler answers \(.*\)\. Start it, or fix the a"
    ):
        OnDask(address, certificates(tmp_path / "tls"))


def test_only_two_units_for_each_worker_are_under_way_even_if_workers_leave():
    under_way = []

    class Shrinking(InProcess):
        workers = 4

        def next_done(self):
            under_way.append(len(self.waiting))
            self.workers = 1
            return super().next_done()

    assert [result for _, result in run_all(Shrinking(), units.square, ((n,) for n in range(20)))] == [
        n**2 for n in range(20)
    ]
    assert under_way == [8, 7, 6, 5, 4, 3, *[2] * 13, 1]


def test_missing_certificates_are_listed(tmp_path):
    pytest.importorskip("dask", reason="needs the group scaling")
    (tmp_path / "ca.pem").touch()
    with pytest.raises(SettingsError, match=r"WINE_DASK_TLS=.*there is no cert\.pem, key\.pem"):
        OnDask("tls://127.0.0.1:8786", tmp_path)


def test_a_setting_for_dask_without_dask_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(SettingsError, match=r"needs Dask.*make setup-scaling"), open_engine(settings(dask="tls://x:1")):
        pass


@pytest.mark.slow
def test_two_processes_run_units_side_by_side_each_on_one_thread(processes, tmp_path):
    for number in range(2):
        processes.submit(number, units.meet, tmp_path, number, 1 - number)
    assert len(set(results(processes, 2).values()) - {os.getpid()}) == 2
    processes.submit(5, units.threads)
    assert processes.next_done() == (5, (1, 1, 0))
    assert "LOKY_MAX_CPU_COUNT" not in os.environ


@pytest.mark.slow
def test_an_error_in_a_unit_is_raised_unchanged_and_the_others_continue(processes):
    processes.submit(1, units.fail, "a.csv")
    with pytest.raises(DataError, match=r"^a\.csv: is not a wine\. Fix it\.$"):
        processes.next_done()
    processes.submit(2, units.square, 7)
    assert processes.next_done() == (2, 49)


@pytest.mark.slow
def test_a_unit_whose_process_is_killed_runs_again_and_no_other_is_lost_or_done_twice(processes, tmp_path):
    processes.submit(0, units.die_once, tmp_path / "mark")
    for number in range(1, 6):
        processes.submit(number, units.slow_square, number)
    assert results(processes, 6) == {0: "done", 1: 1, 2: 4, 3: 9, 4: 16, 5: 25}
    processes.submit(6, units.square, 6)
    assert results(processes, 1) == {6: 36}


@pytest.mark.slow
def test_a_unit_that_always_ends_its_process_gives_a_one_line_error(processes):
    processes.submit(4, units.die)
    with pytest.raises(EngineError, match=r"^unit 4 of the work ended its process 3 times\. Is there enough memory\?"):
        processes.next_done()


SCRIPT = """
import sys
sys.path.insert(0, sys.argv[1])
import units
from pathlib import Path
from wine_quality.engines import Processes
if __name__ == "__main__":
    engine = Processes(2)
    engine.submit(0, units.write_pid, Path(sys.argv[2]))
    engine.next_done()
"""


def is_alive(pid: int) -> bool:
    """Say whether a process runs; one that nobody has waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")")[-1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.slow
def test_the_processes_end_when_their_client_is_killed(tmp_path):
    script, mark = tmp_path / "client.py", tmp_path / "pid"
    script.write_text(SCRIPT)
    client = subprocess.Popen([sys.executable, script, TESTS, mark], env={**os.environ, "PYTHONPATH": str(ROOT)})
    wait_until(lambda: mark.exists() and mark.read_text(), "the unit", 60)
    worker = int(mark.read_text())
    assert is_alive(worker)
    client.kill()
    client.wait()
    wait_until(lambda: not is_alive(worker), "the end of the process", 10)


@pytest.mark.slow
def test_closing_the_engine_ends_running_units(tmp_path):
    engine, mark = Processes(1), tmp_path / "pid"
    engine.submit(0, units.write_pid, mark)
    wait_until(lambda: mark.exists() and mark.read_text(), "the unit", 60)
    started = time.monotonic()
    engine.close()
    assert time.monotonic() - started < 10
    wait_until(lambda: not is_alive(int(mark.read_text())), "the end of the process", 10)


@pytest.mark.slow
def test_on_dask_units_run_on_one_thread_and_errors_come_back_and_a_killed_worker_costs_nothing(cluster, tmp_path):
    with cluster() as running:
        engine = on_dask(running.address)
        assert engine.workers == 2
        engine.submit(0, units.threads)
        assert engine.next_done() == (0, (1, 1, 0))
        engine.submit(1, units.fail, "a.csv")
        with pytest.raises(DataError, match=r"^a\.csv: is not a wine"):
            engine.next_done()
        engine.submit(0, units.die_once, tmp_path / "mark")
        for number in range(1, 6):
            engine.submit(number, units.slow_square, number)
        assert results(engine, 6) == {0: "done", 1: 1, 2: 4, 3: 9, 4: 16, 5: 25}
        assert engine.workers == 1
        engine.close()


@pytest.mark.slow
def test_without_a_worker_the_engine_waits_for_one_and_then_fails_with_a_one_line_error(cluster):
    from dask_cluster import kill

    with cluster() as running:
        engine = on_dask(running.address, patience=15)
        engine.submit(0, units.slow_square, 5, 2)
        kill(*running.workers)
        running.add_worker()
        assert engine.next_done() == (0, 25)
        engine.patience = 1
        engine.submit(1, units.slow_square, 5, 2)
        kill(running.workers[-1])
        with pytest.raises(EngineError, match=r"^the Dask cluster at tcp://.* had no worker for 1 s\. Start one"):
            engine.next_done()
        engine.close()


@pytest.mark.slow
def test_a_scheduler_that_goes_away_gives_a_one_line_error_within_15_seconds(cluster):
    from dask_cluster import kill

    with cluster(workers=1) as running:
        engine = on_dask(running.address)
        engine.submit(0, units.slow_square, 5, 60)
        killed = kill(running.scheduler)
        with pytest.raises(EngineError, match=r"^the Dask scheduler at tcp://.* went away\. Start it and its workers"):
            engine.next_done()
        engine.close()
        assert time.monotonic() - killed < 15


@pytest.mark.slow
def test_without_a_scheduler_or_a_worker_nothing_starts(cluster):
    with cluster(workers=0) as running, pytest.raises(EngineError, match=r"had no worker for 1 s"):
        on_dask(running.address, patience=1)
    with pytest.raises(EngineError, match=r"^WINE_DASK=tcp://.*: no scheduler answers .*Start it"):
        on_dask(running.address)


@pytest.mark.slow
def test_a_worker_with_different_code_is_refused_and_named(cluster, tmp_path):
    shutil.copytree(ROOT / "wine_quality", tmp_path / "old" / "wine_quality", ignore=shutil.ignore_patterns("*.pyc"))
    with (tmp_path / "old" / "wine_quality" / "schema.py").open("a") as file:
        file.write("# another release\n")
    with cluster(workers=0) as running:
        running.add_worker(tmp_path / "old")
        engine = on_dask(running.address)
        engine.submit(0, units.square, 5)
        with pytest.raises(
            EngineError, match=r"^a worker on \S+ differs from its client: code \w{12}, not \w{12}\. Up"
        ):
            engine.next_done()
        engine.close()
