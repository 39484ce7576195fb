"""Nothing leaves the machine: the commands of the READMEs only connect to loopback.

strace follows every process that a command starts, compiled code included. `make check-docs` traces each block of every
README in the same way; here the commands run on the sample. Only `WINE_DATA` can request a download.
"""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests
from selenium import webdriver
from selenium.webdriver.common.by import By
from servers import wait_until
from test_notebooks_run import ON_DASK
from test_page import requested_origins
from wiretap import foreign, tapped

from deployment.openapi import EXAMPLE
from wine_quality import sources
from wine_quality.config import ROOT
from wine_quality.ports import free_port, listens
from wine_quality.schema import FEATURES

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not shutil.which("strace"), reason="no strace: apt install strace"),
]

MAKE = ("make", "-o", ".venv/.ready")  # without `make setup`, whose packages come from an index
MINUTES = 10 * 60
WITH_SERVERS = ("orchestration/07-from-notebook-to-flow", "deployment/08-serve-the-model", f"scaling/{ON_DASK}")
OPEN_LAB = "c.ServerApp.allow_root = True\nc.ServerApp.open_browser = False\nc.ServerApp.token = ''\n"
PROBE = """
import socket
for family, address in ((socket.AF_INET, ("192.0.2.1", 9)), (socket.AF_INET6, ("2001:db8::1", 9))):
    try:  # no packet goes out until something is sent
        with socket.socket(family, socket.SOCK_DGRAM) as one:
            one.connect(address)
    except OSError:
        pass
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
    one.connect(("127.0.0.1", 53))
    try:
        one.send(b"\\1\\2\\1\\0\\0\\1\\0\\0\\0\\0\\0\\0\\6canary\\7example\\0\\0\\1\\0\\1")
    except OSError:
        pass
with socket.socket() as one:
    one.connect_ex(("127.0.0.1", 9))
"""
IMPORTS = """
import importlib, pkgutil
for name in ("wine_quality", "orchestration", "deployment", "monitoring", "chapters", "benchmarks", "notebooks"):
    for module in pkgutil.iter_modules(importlib.import_module(name).__path__, f"{name}."):
        importlib.import_module(module.name)
import kagglehub, mlflow.xgboost, onnxruntime, optuna
"""


class Machine:
    """Somebody's machine: a home folder of its own, ports that are free, and none of the settings of this test."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.home = folder, folder / "home"
        for path in (self.home, folder / "wine"):
            path.mkdir()
        self.ports = {name: free_port() for name in ("PREFECT", "MLFLOW", "S3", "SERVE")}
        self.up = tuple(self.ports[name] for name in ("PREFECT", "MLFLOW", "S3"))
        self.environment = {"PATH": os.environ["PATH"], "HOME": str(self.home), "LC_ALL": "C.UTF-8"}
        self.environment |= {f"WINE_{name}_PORT": str(port) for name, port in self.ports.items()}
        self.environment |= {"WINE_HOME": str(folder / "wine"), "WINE_DATA": "sample"}

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.ports[name]}"

    def runs(self, *command: str) -> None:
        """Run a command to its end, and fail if it connected to anything but loopback, whatever its exit code."""
        log = self.folder / "contacts"
        streams = {"stdin": subprocess.DEVNULL, "capture_output": True, "text": True}
        done = subprocess.run([*tapped(log), *command], cwd=ROOT, env=self.environment, **streams, timeout=MINUTES)
        assert foreign(log) == [], command
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"

    @contextmanager
    def serves(self, *command: str, ports: tuple[int, ...]) -> Iterator[None]:
        """Run servers in the block, and fail if they connected to anything but loopback at any time."""
        log, screen = self.folder / f"contacts-{ports[0]}", self.folder / f"screen-{ports[0]}"
        with screen.open("wb") as lines:
            streams = {"stdin": subprocess.DEVNULL, "stdout": lines, "stderr": lines}
            server = subprocess.Popen(
                [*tapped(log), *command], cwd=ROOT, env=self.environment, **streams, start_new_session=True
            )
        try:
            wait_until(lambda: all(map(listens, ports)) or server.poll() is not None, " ".join(command), MINUTES)
            assert server.poll() is None, screen.read_text()
            yield
        finally:
            if server.poll() is None:
                os.killpg(server.pid, 2)
            server.wait(timeout=120)
        assert foreign(log) == [], command

    @contextmanager
    def lab(self) -> Iterator[str]:
        port = free_port()
        self.environment |= {"JUPYTER_PORT": str(port), "JUPYTER_CONFIG_DIR": str(self.home)}
        (self.home / "jupyter_server_config.py").write_text(OPEN_LAB)
        with self.serves(*MAKE, "lab", ports=(port,)):
            yield f"http://127.0.0.1:{port}/lab"


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_the_eye_sees_each_contact_beyond_loopback_and_each_look_up(machine):
    log = machine.folder / "contacts"
    subprocess.run([*tapped(log), sys.executable, "-c", PROBE], check=True, timeout=60)
    assert foreign(log) == [
        "python: 192.0.2.1 port 9",
        "python: 2001:db8::1 port 9",
        "python: a look-up of canary.example",
        "python: a look-up of some name",
    ]


def test_importing_every_module_asks_nobody_and_leaves_no_id_of_this_machine(machine):
    machine.runs(sys.executable, "-c", IMPORTS)
    assert not [path for path in machine.home.rglob("*") if path.name in ("Microsoft", "deviceid", "telemetry")]


def test_the_commands_of_the_readmes_ask_nobody(machine):
    machine.runs(*MAKE, "run")
    with machine.serves(*MAKE, "up", ports=machine.up):
        machine.runs(*MAKE, "deploy")
        with machine.serves(*MAKE, "serve", ports=(machine.ports["SERVE"],)):
            url = machine.url("SERVE")
            wait_until(lambda: requests.get(f"{url}/health/ready", timeout=30).ok, "the champion")
            assert requests.post(f"{url}/predict", json=EXAMPLE, timeout=30).json()["stored"]
            for path in ("/", "/docs", "/metrics"):
                assert requests.get(url + path, timeout=30).ok
            machine.runs(*MAKE, "monitor")
        incoming = machine.folder / "wine" / ".local" / "s3" / "wine-quality" / "incoming"
        incoming.mkdir(parents=True)
        sources.sample("a test").table[FEATURES].head(300).to_csv(incoming / "monday.csv", index=False)
        for words in (["score"], ["bucket"], ["check", "CH=4"]):
            machine.runs(*MAKE, *words)
    assert not list(machine.home.rglob("Microsoft"))


@pytest.mark.parametrize("path", WITH_SERVERS)
def test_a_notebook_that_starts_servers_or_workers_contacts_nobody(machine, path):
    if path.endswith(ON_DASK):
        pytest.importorskip("distributed", reason="Dask is not installed: make setup-scaling")
    copy = shutil.copy(ROOT / f"{path}.ipynb", machine.folder)
    machine.runs(sys.executable, "-m", "notebooks.execute", copy)


OF_THIS_MACHINE = r"(\w+)://(127\.0\.0\.1|localhost)(:|$)|(blob|chrome):"  # chrome: is Chromium's own first page


def opens(chromium: webdriver.Chrome, *addresses: str) -> None:
    """Open pages one after the other, and fail where one asks another host than this machine."""
    for address in addresses:
        chromium.get(address)
        wait_until(lambda: chromium.find_elements(By.CSS_SELECTOR, "h1, h2, h3, nav, main, [role=main]"), address)
        time.sleep(3)  # what a page asks for late
    hosts = requested_origins(chromium)
    assert hosts
    assert not [host for host in hosts if not re.match(OF_THIS_MACHINE, host)], hosts


def test_the_pages_of_every_server_ask_nobody(machine, chromium):
    with machine.serves(*MAKE, "up", ports=machine.up):
        pages = ("dashboard", "runs", "flows", "deployments", "settings", "blocks/catalog")
        opens(chromium, *(f"{machine.url('PREFECT')}/{page}" for page in pages))
        opens(chromium, *(f"{machine.url('MLFLOW')}/#/{page}" for page in ("experiments", "models", "settings")))
    with machine.lab() as lab:
        opens(chromium, lab)


def test_jupyterlab_and_mlflow_ui_ask_nobody(machine):
    with machine.lab() as lab:
        for path in ("", "/api/news", "/api/update", "/api/extensions"):
            assert requests.get(lab + path, timeout=120).status_code < 500
    port = free_port()
    ui, store = f"http://127.0.0.1:{port}", f"sqlite:///{machine.folder}/mlflow.db"
    with machine.serves(".venv/bin/mlflow", "ui", "--backend-store-uri", store, "--port", str(port), ports=(port,)):
        wait_until(lambda: requests.get(f"{ui}/", timeout=120).ok, "MLflow")
        for path in ("/ajax-api/3.0/mlflow/ui-telemetry", "/ajax-api/2.0/mlflow/experiments/search?max_results=1"):
            assert requests.get(ui + path, timeout=120).status_code < 500
