"""`make` without a target, and what setup reports if it fails."""

import os
import re
import shutil
import ssl
import subprocess
import sys
import zipfile
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from http.server import ThreadingHTTPServer
from importlib.metadata import distribution
from pathlib import Path

import pytest
from loopback import ANY_PORT, Quiet, serving

from wine_quality.config import ROOT
from wine_quality.ports import free_port

pytestmark = pytest.mark.slow


READ = (  # what set-up reads, and of ours what Python imports at its start
    "Makefile",
    "pyproject.toml",
    "chapters/install.py",
    "wine_quality/__init__.py",
    "wine_quality/environment.py",
)
NO_INSTALL = "error: packages could not be installed. "


@pytest.fixture
def checkout(tmp_path) -> Path:
    return copied(tmp_path / "checkout")


def copied(folder: Path) -> Path:
    """Make a folder with what set-up reads, one small package to install, and no .venv yet."""
    for name in READ:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    (folder / "requirements.txt").write_text("tiny==1.0\n")
    return folder


INHERITED = re.compile(r"PIP_|UV_|SSL_|REQUESTS_|CURL_|XDG_")


def make(folder: Path, *words: str, user: int | None = None, **environment: str) -> subprocess.CompletedProcess:
    inherited = {name: value for name, value in os.environ.items() if not INHERITED.match(name)}
    own = {**inherited, "PIP_RETRIES": "0", "XDG_CONFIG_DIRS": "/nowhere", **environment}
    return subprocess.run(["make", *words], cwd=folder, env=own, user=user, capture_output=True, text=True, timeout=300)


def set_up(folder: Path, python: str = sys.executable, **more) -> subprocess.CompletedProcess:
    return make(folder, "setup", f"PYTHON={python}", **more)


def log_of(folder: Path) -> str:
    return (folder / ".local" / "setup.log").read_text()


def test_make_alone_lists_every_target_with_a_line_by_chapter():
    targets = re.search(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1].split()
    lines = make(ROOT).stdout.splitlines()
    assert [line for line in lines if re.match(r"Chapters? \d", line)]
    listed = [line.split(maxsplit=2) for line in lines if line.startswith("  make ")]
    assert sorted(target for _, target, _ in listed) == sorted(targets)
    assert all(len(line) > 9 for _, _, line in listed)


@pytest.mark.parametrize(
    ("script", "line", "printed"),
    [
        (
            """exec "$PYTHON" -c 'import sys; sys.version_info = (3, 10, 9); exec(sys.argv[1])' "$2\"""",
            "Python 3.11, 3.12 or 3.13 is needed, and none of '{}' is one. Install it",
            "",
        ),
        (
            """[ "$1" = -m ] && { echo "No module named $2" >&2; exit 1; }\nexec "$PYTHON" "$@\"""",
            "{} has no venv module. Install it (on Debian and Ubuntu: sudo apt install",
            "Setting up .venv with ",
        ),
    ],
    ids=["out of range", "without venv"],
)
def test_a_python_that_cannot_set_up_ends_in_one_line(checkout, script, line, printed):
    python = checkout / "python-of-a-test"  # behaves as the script says, where $PYTHON is the one that runs the tests
    python.write_text(f"#!/bin/sh\nPYTHON='{sys.executable}'\n{script}\n")
    python.chmod(0o755)
    done = make(checkout, "run", f"PYTHON={python}")
    assert done.returncode != 0
    assert done.stdout.partition("Python")[0] == printed
    error, makes_own = done.stderr.splitlines()
    assert error.startswith(f"error: {line.format(python)}")
    assert makes_own.startswith("make: ***")
    assert not (checkout / ".venv").exists()


def wheel(folder: Path, name: str, version: str, files: dict[str, Path | str]) -> None:
    """Write a wheel of some files, by where they go in it."""
    about = f"{name}-{version}.dist-info"
    files = {
        f"{about}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{about}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        **files,
    }
    (folder / name).mkdir(parents=True)
    with zipfile.ZipFile(folder / name / f"{name}-{version}-py3-none-any.whl", "w") as packed:
        for path, content in files.items():
            entry = zipfile.ZipInfo(path)
            entry.external_attr = 0o100755 << 16  # a regular file that may be executed
            packed.writestr(entry, content.read_bytes() if isinstance(content, Path) else content)
        packed.writestr(f"{about}/RECORD", "".join(f"{path},,\n" for path in files))


@pytest.fixture(scope="session")
def packages(tmp_path_factory) -> Path:
    """A folder of packages as an index serves it: uv as it is installed here, and a tiny one."""
    folder = tmp_path_factory.mktemp("index")
    uv = distribution("uv")
    installed = {str(path): Path(path.locate()) for path in uv.files if path.parts[0] == "uv" and path.suffix == ".py"}
    program = next(Path(path.locate()) for path in uv.files if path.name == "uv" and "bin" in path.parts)
    wheel(folder, "uv", uv.version, {**installed, f"uv-{uv.version}.data/scripts/uv": program})
    wheel(folder, "tiny", "1.0", {"tiny.py": "VALUE = 1\n"})
    return folder


@pytest.fixture(scope="session")
def certificates(tmp_path_factory) -> Path:
    """A folder with a CA of its own, `ca.pem`, and a server's certificate by it, `server.pem`."""
    if not shutil.which("openssl"):
        pytest.skip("openssl is not installed")
    folder = tmp_path_factory.mktemp("certificates")
    new = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    server = ["-CA", "ca.pem", "-CAkey", "ca.key", "-addext", "subjectAltName=IP:127.0.0.1"]
    for words in (
        [*new, "-subj", "/CN=a CA of a test", "-keyout", "ca.key", "-out", "ca.pem"],
        [*new, "-subj", "/CN=127.0.0.1", "-keyout", "server.key", "-out", "server.pem", *server,
         "-addext", "basicConstraints=critical,CA:FALSE"],
    ):  # fmt: skip
        subprocess.run(words, cwd=folder, capture_output=True, check=True)
    return folder


@contextmanager
def index(packages: Path, certificates: Path | None = None, login: str = "") -> Iterator[tuple[str, list[str]]]:
    """Serve an index, over TLS if there are certificates, to clients with the login; yield its host and requests."""
    requested = []

    class Handler(Quiet):
        def do_GET(self) -> None:
            requested.append(f"{self.headers['User-Agent'].split('/')[0]} {self.path}")
            if login and self.headers["Authorization"] != f"Basic {b64encode(login.encode()).decode()}":
                self.send_error(401)
            else:
                super().do_GET()

    server = ThreadingHTTPServer(ANY_PORT, partial(Handler, directory=packages))
    if certificates:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificates / "server.pem", certificates / "server.key")
        server.socket = context.wrap_socket(server.socket, server_side=True)
    with serving(server):
        yield f"127.0.0.1:{server.server_port}", requested


def test_the_index_and_the_ca_of_pip_conf_hold_in_a_path_beyond_ascii(tmp_path, packages, certificates):
    folder = copied(tmp_path / "Grüße ☕")
    with index(packages, certificates, login="me:hunter2") as (host, requested):
        conf = f"[global]\nindex-url = https://me:hunter2@{host}\n[install]\ncert = {certificates / 'ca.pem'}\n"
        (tmp_path / "pip.conf").write_text(conf)
        own = {"LC_ALL": "C", "PIP_CONFIG_FILE": str(tmp_path / "pip.conf"), "UV_NO_CACHE": "1"}
        done = set_up(folder, **own)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert [line for line in requested if line.startswith("uv ") and "tiny" in line]
    assert "hunter2" not in done.stdout + log_of(folder)
    code = "import tiny, wine_quality, os; print(os.environ['DO_NOT_TRACK'])"
    python = [folder / ".venv" / "bin" / "python", "-c", code]
    shown = subprocess.run(python, cwd=tmp_path, env={"LC_ALL": "C"}, capture_output=True, text=True)
    assert (shown.stdout, shown.stderr) == ("true\n", "")


def python_of(user: int) -> str:
    for python in (os.path.realpath(sys.executable), "/usr/bin/python3"):
        words = [python, "-c", "import ensurepip, sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))"]
        with suppress(PermissionError, FileNotFoundError):
            if subprocess.run(words, user=user, capture_output=True).returncode == 0:
                return python
    pytest.skip("there is no Python with ensurepip that another user may run")


def test_a_user_without_a_home_sets_up_with_links_of_pip(open_folder, packages):
    if os.geteuid():
        pytest.skip("only root may run a command as another user")
    folder, links = copied(open_folder / "checkout"), open_folder / "links"
    links.mkdir()
    for path in packages.rglob("*.whl"):
        shutil.copy(path, links)
    for path in (folder, *folder.rglob("*")):
        os.chown(path, 65534, 65534)
    (open_folder / "home").mkdir(mode=0o555)
    own = {"HOME": str(open_folder / "home"), "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(links)}
    done = set_up(folder, python_of(65534), user=65534, **own)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert (folder / ".local" / "uv-cache").is_dir()


UNTRUSTED = "The server's certificate is not trusted: name its CA in PIP_CERT=/path/to/ca.pem, or in pip.conf"
REFUSED = "The index lacks a package, or rejects your login: fix its address and password in pip's settings"


@pytest.mark.parametrize(
    ("login", "secure", "advice"),
    [("", True, UNTRUSTED), ("me:other", False, f"{REFUSED} (PIP_INDEX_URL, pip.conf)")],
    ids=["an unknown CA", "a wrong password"],
)
def test_the_advice_fits_the_cause_and_shows_no_password(checkout, packages, certificates, login, secure, advice):
    with index(packages, certificates if secure else None, login) as (host, _):
        url = f"{'https' if secure else 'http'}://me:hunter2@{host}"
        done = set_up(checkout, PIP_INDEX_URL=url, PIP_EXTRA_INDEX_URL=url)
    error, *shown, makes_own = done.stderr.splitlines()
    assert error == f"{NO_INSTALL}{advice}. The details are in .local/setup.log:"
    assert shown
    assert all(line.startswith("  ") for line in shown)
    assert makes_own.startswith("make: ***")
    assert "hunter2" not in done.stdout + done.stderr + log_of(checkout)


def test_no_network_at_install_ends_in_one_line_and_the_last_of_the_log(checkout):
    port = free_port()
    nobody = f"http://127.0.0.1:{port}/simple"
    done = set_up(checkout, PIP_INDEX_URL=nobody, PIP_EXTRA_INDEX_URL=nobody)
    assert done.returncode != 0
    error, *_, makes_own = done.stderr.splitlines()
    assert error.startswith(f"{NO_INSTALL}Check your network connection, and the proxy and ")
    assert makes_own.startswith("make: ***")
    assert str(port) in log_of(checkout)
    assert not (checkout / ".venv" / ".ready").exists()
