import hashlib
import io
import re
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests
from uci import Uci, packed, uci_server

from wine_quality import download
from wine_quality.config import Settings, settings
from wine_quality.errors import DataError, DownloadError
from wine_quality.ports import free_port

RED, WHITE = "winequality-red.csv", "winequality-white.csv"
CONTENTS = {RED: b"red wine\n" * 1000, WHITE: b"white wine\n" * 1000}
TRY_LATER = "Try later, or set WINE_DATA=sample."


@pytest.fixture
def uci(monkeypatch) -> Iterator[Uci]:
    """A server, with its address in the settings and the checksums of its files in place of the published ones."""
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in CONTENTS.items()}
    monkeypatch.setattr(download, "UCI_SHA256", sums)
    with uci_server(CONTENTS | {"winequality.names": b""}) as uci:
        monkeypatch.setenv("WINE_UCI_URL", uci.url)
        yield uci


@pytest.fixture(autouse=True)
def closed_connections(monkeypatch) -> Iterator[None]:
    """Close the connections that pooch leaves open after a failed download, because Python would warn about them."""
    responses, get = [], requests.get
    monkeypatch.setattr(
        requests, "get", lambda *args, **kwargs: responses.append(get(*args, **kwargs)) or responses[-1]
    )
    yield
    for response in responses:
        response.close()


def refusal(kind: type[Exception], get: Callable[[Settings], Path] = download.uci, **overrides: str) -> str:
    """Return the error line of a failed download, after checking that no file is left."""
    config = settings(**overrides)
    before = sorted(config.raw_data.rglob("*"))
    with pytest.raises(kind) as caught:
        get(config)
    assert type(caught.value) is kind
    assert str(caught.value).isprintable()
    assert sorted(config.raw_data.rglob("*")) == before
    return str(caught.value)


def test_only_the_two_files_are_stored_and_a_second_run_reads_them(uci):
    assert not download.is_downloaded(settings())
    folder = download.uci(settings())
    assert folder == settings().raw_data / "uci"
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == CONTENTS
    assert list(settings().raw_data.iterdir()) == [folder]
    assert download.is_downloaded(settings())
    uci.status = 500
    download.uci(settings())
    assert uci.requests == 1


@pytest.mark.parametrize(
    "corrupt", [lambda path: path.write_bytes(b"corrupt"), Path.unlink], ids=["corrupt", "missing"]
)
def test_a_corrupt_or_missing_file_is_downloaded_again_and_left_alone_if_that_fails(uci, corrupt):
    folder = download.uci(settings())
    corrupt(folder / WHITE)
    before = {path: path.read_bytes() for path in folder.iterdir()}
    assert not download.is_downloaded(settings())
    uci.status = 500
    refusal(DownloadError)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    uci.status = 200
    assert (download.uci(settings()) / WHITE).read_bytes() == CONTENTS[WHITE]
    assert list(settings().raw_data.iterdir()) == [folder]
    assert uci.requests == 3


def test_progress_is_shown_only_on_a_terminal_and_cleared_at_the_end_or_before_an_error(
    uci, tmp_path, monkeypatch, capfd
):
    download.uci(settings(home=tmp_path / "log"))
    assert capfd.readouterr().err == ""
    for length, progress in ((None, f"0.00/{len(uci.body)}"), (10**6, "0%")):
        uci.length, screen = length, io.StringIO()
        screen.isatty = lambda: True
        with monkeypatch.context() as terminal:
            terminal.setattr(sys, "stderr", screen)
            if length:
                refusal(DownloadError)
            else:
                download.uci(settings(home=tmp_path / "terminal"))
        assert progress in screen.getvalue()
        assert screen.getvalue().endswith("\r")


NO_ARCHIVE = f"{{url}}: not the wine archive, or truncated. {TRY_LATER}"
WRONG = {
    "other file": (
        {"body": packed(CONTENTS | {WHITE: b"other wine"})},
        f"{{url}}: the SHA-256 checksum of {WHITE} differs from the published one. {TRY_LATER}",
    ),
    "truncated": ({"body": packed(CONTENTS)[:-100]}, NO_ARCHIVE),
    "corrupt archive": ({"body": packed(CONTENTS).replace(b"PK\x05\x06", b"PK\x05\x07")}, NO_ARCHIVE),
    "file missing": ({"body": packed({RED: CONTENTS[RED]})}, NO_ARCHIVE),
    "HTML": ({"body": b"<html>come back tomorrow</html>"}, NO_ARCHIVE),
    "empty": ({"body": b""}, NO_ARCHIVE),
    "500": (
        {"status": 500},
        f"UCI cannot be reached (500 Server Error: Internal Server Error for url: {{url}}). {TRY_LATER}",
    ),
    "404": ({"status": 404}, f"UCI cannot be reached (404 Client Error: Not Found for url: {{url}}). {TRY_LATER}"),
    "connection ends early": ({"length": 10**6}, "UCI cannot be reached ("),
}


@pytest.mark.parametrize(("change", "line"), WRONG.values(), ids=WRONG)
def test_a_wrong_archive_is_rejected_and_leaves_no_file(uci, change, line):
    vars(uci).update(change)
    assert refusal(DownloadError).startswith(line.format(url=uci.url))


def test_a_server_that_is_down_or_does_not_respond_is_named(monkeypatch):
    monkeypatch.setattr(download, "CONNECT_READ_SECONDS", (0.2, 0.2))
    line = refusal(DownloadError, uci_url=f"http://127.0.0.1:{free_port()}/wine.zip")
    assert re.fullmatch(rf"UCI cannot be reached \(\[Errno \d+\] Connection refused\)\. {re.escape(TRY_LATER)}", line)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        line = refusal(DownloadError, uci_url=f"http://127.0.0.1:{silent.getsockname()[1]}/wine.zip")
    assert line == f"UCI cannot be reached (timed out). {TRY_LATER}"


@pytest.mark.parametrize("url", ["http://uci.example/wine.zip", "https://uci.example/wine.zip"])
@pytest.mark.parametrize("spelling", ["HTTP_PROXY HTTPS_PROXY", "http_proxy https_proxy", "ALL_PROXY", "all_proxy"])
@pytest.mark.parametrize("answers", [True, False], ids=["hangs", "refuses"])
def test_a_proxy_that_does_not_respond_is_named_without_its_password(monkeypatch, url, spelling, answers):
    monkeypatch.setattr(download, "CONNECT_READ_SECONDS", (0.2, 0.2))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1] if answers else free_port()
        for name in spelling.split():
            monkeypatch.setenv(name, f"http://me:hunter2@127.0.0.1:{port}")
        line = refusal(DownloadError, uci_url=url)
    why = "timed out" if answers else r"\[Errno \d+\] Connection refused"
    assert re.fullmatch(
        rf"UCI cannot be reached through the proxy 127\.0\.0\.1:{port} \(.*{why}.*\)\. {TRY_LATER}", line
    )


@pytest.mark.parametrize("url", ["", "wine.zip", "gopher://uci/wine.zip", "http://", "http://[::1"])
def test_an_invalid_address_is_rejected(monkeypatch, url):
    monkeypatch.setattr(download, "UCI_SHA256", dict.fromkeys(CONTENTS, "none"))
    assert refusal(DownloadError, uci_url=url).endswith(f"). {TRY_LATER}")


@pytest.mark.parametrize("host", ["192.0.2.1", "[2001:db8::1]", "wine.example"])
def test_tests_cannot_reach_other_machines(host):
    with pytest.raises(RuntimeError, match=rf"a test wants to reach {re.escape(host.strip('[]'))}, and tests have no "):
        download.uci(settings(uci_url=f"http://{host}/wine.zip"))


@pytest.mark.parametrize("step", ["requests.Response.iter_content", "shutil.copyfileobj", "pathlib.Path.rename"])
def test_a_full_disk_raises_an_error_and_leaves_no_file(uci, monkeypatch, full_disk, step):
    def full(*_args, **_kwargs):
        raise full_disk

    monkeypatch.setattr(step, full)
    why = "cannot be used (No space left on device). Free some space or fix the permissions."
    assert refusal(DataError) == f"{settings().raw_data}/uci: {why}"


def test_a_home_without_write_permission_raises_an_error(uci, open_folder, monkeypatch, without_rights):
    monkeypatch.setenv("WINE_HOME", str(open_folder))
    open_folder.chmod(0o555)
    with without_rights():
        line = refusal(DataError)
    assert line.startswith(f"{open_folder}/wine_data/raw/uci: cannot be used (Permission denied).")
    assert uci.requests == 0


def test_both_kaggle_files_are_stored_and_reused_and_a_failed_download_leaves_no_file(monkeypatch):
    def from_kaggle(handle: str, path: str, output_dir: str) -> None:
        (Path(output_dir) / path).write_text(handle)
        handles.append(handle)
        if handle == refused:
            raise KeyError("403 Forbidden")

    handles, refused = [], "rajyellow46/wine-quality"
    monkeypatch.setattr("kagglehub.dataset_download", from_kaggle)
    why = "the Kaggle dataset rajyellow46/wine-quality is not available ('403 Forbidden')."
    assert refusal(DownloadError, download.kaggle) == f"{why} {TRY_LATER}"
    handles, refused = [], ""
    folder = download.kaggle(settings())
    assert folder == download.kaggle(settings()) == settings().raw_data / "kaggle"
    assert handles == list(download.KAGGLE_SETS)
    assert {path.name for path in folder.iterdir()} == {"WineQuality.csv", "winequalityN.csv"}
