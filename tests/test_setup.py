"""`make` by itself, and what it says where it cannot set up."""

import os
import re
import shutil
import ssl
import subprocess
import sys
import threading
import zipfile
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import distribution
from pathlib import Path

import pytest

from wine_quality.config import ROOT
from wine_quality.ports import free_port

pytestmark = pytest.mark.slow


@pytest.fixture
def checkout(tmp_path) -> Path:
    """A folder with what set-up reads, and no .venv yet."""
    return copied(tmp_path / "checkout")


def copied(folder: Path) -> Path:
    """Copy what set-up reads, with one small package to install, and of ours what Python imports at its start."""
    for name in (
        "Makefile",
        "pyproject.toml",
        "chapters/install.py",
        "wine_quality/__init__.py",
        "wine_quality/environment.py",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    (folder / "requirements.txt").write_text("tiny==1.0\n")
    return folder


INHERITED = re.compile(r"PIP_|UV_|SSL_|REQUESTS_|CURL_|XDG_")


def make(folder: Path, *words: str, user: int | None = None, **environment: str) -> subprocess.CompletedProcess:
    inherited = {name: value for name, value in os.environ.items() if not INHERITED.match(name)}
    return subprocess.run(
        ["make", *words],
        cwd=folder,
        env={**inherited, "PIP_RETRIES": "0", "XDG_CONFIG_DIRS": "/nowhere", **environment},
        user=user,
        capture_output=True,
        text=True,
        timeout=300,
    )


def interpreter(folder: Path, script: str) -> Path:
    """A Python that behaves as `script` says, where `$PYTHON` is the one that runs the tests."""
    path = folder / "python-of-a-test"
    path.write_text(f"#!/bin/sh\nPYTHON='{sys.executable}'\n{script}\n")
    path.chmod(0o755)
    return path


def test_make_alone_lists_every_target_with_a_line_by_chapter():
    targets = re.search(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1].split()
    lines = make(ROOT).stdout.splitlines()
    assert [line for line in lines if re.match(r"Chapters? \d", line)]
    listed = [line.split(maxsplit=2) for line in lines if line.startswith("  make ")]
    assert sorted(target for _, target, _ in listed) == sorted(targets)
    assert all(len(line) > 9 for _, _, line in listed)


def test_a_python_out_of_range_ends_in_one_line(checkout):
    old = interpreter(
        checkout, """exec "$PYTHON" -c 'import sys; sys.version_info = (3, 10, 9); exec(sys.argv[1])' "$2\""""
    )
    done = make(checkout, "run", f"PYTHON={old}")
    assert done.returncode != 0
    assert done.stdout == ""
    line, makes_own = done.stderr.splitlines()
    assert line.startswith(f"error: Python 3.11, 3.12 or 3.13 is needed, and none of '{old}' is one. Install it")
    assert makes_own.startswith("make: ***")
    assert not (checkout / ".venv").exists()


def test_a_python_without_venv_ends_in_one_line(checkout):
    bare = interpreter(
        checkout, """[ "$1" = -m ] && { echo "No module named $2" >&2; exit 1; }\nexec "$PYTHON" "$@\""""
    )
    done = make(checkout, "test", f"PYTHON={bare}")
    assert done.returncode != 0
    line, makes_own = done.stderr.splitlines()
    assert line.startswith(f"error: {bare} has no venv module. Install it (on Debian and Ubuntu: sudo apt install")
    assert makes_own.startswith("make: ***")


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
    """Serve an index, over TLS where there are certificates, to who knows the login; yield its host and requests."""
    asked = []

    class Handler(SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(f"{self.headers['User-Agent'].split('/')[0]} {self.path}")
            wanted = f"Basic {b64encode(login.encode()).decode()}"
            if login and self.headers["Authorization"] != wanted:
                self.send_error(401)
            else:
                super().do_GET()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=packages))
    if certificates:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificates / "server.pem", certificates / "server.key")
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def of_uv(asked: list[str]) -> list[str]:
    return [line for line in asked if line.startswith("uv ") and "tiny" in line]


def test_the_index_and_the_ca_of_pip_conf_hold_in_a_path_beyond_ascii(tmp_path, packages, certificates):
    folder = copied(tmp_path / "Grüße ☕")
    with index(packages, certificates, login="me:hunter2") as (host, asked):
        conf = f"[global]\nindex-url = https://me:hunter2@{host}\n[install]\ncert = {certificates / 'ca.pem'}\n"
        (tmp_path / "pip.conf").write_text(conf)
        own = {"LC_ALL": "C", "PIP_CONFIG_FILE": str(tmp_path / "pip.conf"), "UV_NO_CACHE": "1"}
        done = make(folder, "setup", f"PYTHON={sys.executable}", **own)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert of_uv(asked)
    assert "hunter2" not in done.stdout + (folder / ".local" / "setup.log").read_text()
    python = [
        folder / ".venv" / "bin" / "python",
        "-c",
        "import tiny, wine_quality, os; print(os.environ['DO_NOT_TRACK'])",
    ]
    shown = subprocess.run(python, cwd=tmp_path, env={"LC_ALL": "C"}, capture_output=True, text=True)
    assert (shown.stdout, shown.stderr) == ("true\n", "")


def python_of(user: int) -> str:
    """Return a Python in range that this user may run, or skip the test."""
    for python in (os.path.realpath(sys.executable), "/usr/bin/python3"):
        words = [python, "-c", "import ensurepip, sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))"]
        with suppress(PermissionError, FileNotFoundError):
            if subprocess.run(words, user=user, capture_output=True).returncode == 0:
                return python
    pytest.skip("there is no Python with ensurepip that another user may run")


def test_a_user_without_a_home_of_his_own_sets_up_with_links_of_pip(open_folder, packages):
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
    done = make(folder, "setup", f"PYTHON={python_of(65534)}", user=65534, **own)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert (folder / ".local" / "uv-cache").is_dir()


@pytest.mark.parametrize(
    ("login", "secure", "advice"),
    [
        ("", True, "The server's certificate is not trusted: name its CA in PIP_CERT=/path/to/ca.pem, or in pip.conf"),
        (
            "me:other",
            False,
            "The index lacks a package, or refuses you: mend its address and password in pip's settings "
            "(PIP_INDEX_URL, pip.conf)",
        ),
    ],
    ids=["an unknown CA", "a wrong password"],
)
def test_the_advice_fits_the_cause_and_shows_no_password(checkout, packages, certificates, login, secure, advice):
    with index(packages, certificates if secure else None, login) as (host, _):
        url = f"{'https' if secure else 'http'}://me:hunter2@{host}"
        done = make(checkout, "setup", f"PYTHON={sys.executable}", PIP_INDEX_URL=url, PIP_EXTRA_INDEX_URL=url)
    told = f"error: packages could not be installed. {advice}. The details are in .local/setup.log:"
    first, *shown, makes_own = done.stderr.splitlines()
    assert first == told
    assert shown
    assert all(line.startswith("  ") for line in shown)
    assert makes_own.startswith("make: ***")
    assert "hunter2" not in done.stdout + done.stderr + (checkout / ".local" / "setup.log").read_text()


def test_no_network_at_install_ends_in_one_line_and_the_last_of_the_log(checkout):
    nobody = f"http://127.0.0.1:{free_port()}/simple"
    done = make(checkout, "setup", f"PYTHON={sys.executable}", PIP_INDEX_URL=nobody, PIP_EXTRA_INDEX_URL=nobody)
    assert done.returncode != 0
    line, *_, makes_own = done.stderr.splitlines()
    assert line.startswith("error: packages could not be installed. Is there a network? Check it, and the proxy and ")
    assert makes_own.startswith("make: ***")
    assert nobody.partition("/simple")[0].rpartition(":")[2] in (checkout / ".local" / "setup.log").read_text()
    assert not (checkout / ".venv" / ".ready").exists()
