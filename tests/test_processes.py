"""Servers of a command: started, waited for, and ended with it."""

import sys

import pytest

from wine_quality.errors import DeploymentError
from wine_quality.ports import free_port, listens
from wine_quality.processes import module, server, wait_until


def test_a_server_listens_in_the_block_and_not_after_it(tmp_path):
    port = free_port()
    with server(module("http.server", "--bind", "127.0.0.1", str(port)), [port], tmp_path / "log", {}):
        assert listens(port)
    assert not listens(port)


def test_a_server_that_does_not_start_is_reported_with_its_last_line(tmp_path):
    command = [sys.executable, "-c", "raise SystemExit('no such folder')"]
    with (
        pytest.raises(DeploymentError, match=r"did not start: no such folder\. .*log has more"),
        server(command, [free_port()], tmp_path / "log", {}),
    ):
        pytest.fail("it did start")


def test_waiting_returns_the_value_or_names_what_did_not_come():
    assert wait_until(iter([0, None, 7]).__next__, "seven", 60) == 7
    with pytest.raises(DeploymentError, match=r"^the run: not in 0 s\. Look into the logs"):
        wait_until(lambda: None, "the run", 0)
