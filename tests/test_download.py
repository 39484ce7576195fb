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


@pytest.fixture
def uci(monkeypatch) -> Iterator[Uci]:
    """The server, its address in the settings, and the sums of its files taken for the published ones."""
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in CONTENTS.items()}
    monkeypatch.setattr(download, "UCI_SHA256", sums)
    with uci_server(CONTENTS | {"winequality.names": b""}) as uci:
        monkeypatch.setenv("WINE_UCI_URL", uci.url)
        yield uci


@pytest.fixture(autouse=True)
def closed_connections(monkeypatch) -> Iterator[None]:
    """Close what pooch leaves open after a failed download, which Python would do at any time, with a warning."""
    responses, get = [], requests.get

    def remembered(*args, **kwargs) -> requests.Response:
        responses.append(get(*args, **kwargs))
        return responses[-1]

    monkeypatch.setattr(requests, "get", remembered)
    yield
    for response in responses:
        response.close()


def refusal(kind: type[Exception], get: Callable[[Settings], Path] = download.uci) -> str:
    """Return the one line with which a download ends, after checking that it left no file."""
    before = files_of(settings())
    with pytest.raises(kind) as caught:
        get(settings())
    assert type(caught.value) is kind
    assert str(caught.value).isprintable()
    assert files_of(settings()) == before
    return str(caught.value)


def files_of(config: Settings) -> list[Path]:
    return sorted(config.raw_data.rglob("*"))


def test_both_files_are_kept_and_nothing_else(uci):
    folder = download.uci(settings())
    assert folder == settings().raw_data / "uci"
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == CONTENTS
    assert list(settings().raw_data.iterdir()) == [folder]


def test_a_second_run_reads_what_is_kept(uci):
    assert not download.is_downloaded(settings())
    download.uci(settings())
    assert download.is_downloaded(settings())
    uci.status = 500
    download.uci(settings())
    assert uci.requests == 1


@pytest.mark.parametrize("spoil", [lambda path: path.write_bytes(b"spoilt"), Path.unlink], ids=["spoilt", "gone"])
def test_a_kept_file_that_is_spoilt_or_gone_is_downloaded_again(uci, spoil):
    folder = download.uci(settings())
    spoil(folder / WHITE)
    assert not download.is_downloaded(settings())
    assert (download.uci(settings()) / WHITE).read_bytes() == CONTENTS[WHITE]
    assert list(settings().raw_data.iterdir()) == [folder]
    assert uci.requests == 2


def shown_by(job: Callable[[], object], monkeypatch) -> str:
    """Return what a job shows on a terminal."""
    screen = io.StringIO()
    screen.isatty = lambda: True
    with monkeypatch.context() as terminal:
        terminal.setattr(sys, "stderr", screen)
        job()
    return screen.getvalue()


def test_progress_is_shown_and_taken_away_at_the_end(uci, monkeypatch):
    shown = shown_by(lambda: download.uci(settings()), monkeypatch)
    assert f"0.00/{len(uci.body)}" in shown
    assert shown.endswith("\r")


def test_the_progress_is_taken_away_before_a_failure_is_told(uci, monkeypatch):
    uci.length = 10**6
    shown = shown_by(lambda: refusal(DownloadError), monkeypatch)
    assert "0%" in shown
    assert shown.endswith("\r")


def test_progress_is_not_written_where_it_would_fill_a_log(uci, capfd):
    download.uci(settings())
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("change", "line"),
    [
        pytest.param(
            {"body": packed(CONTENTS | {WHITE: b"other wine"})},
            f"{{url}}: {WHITE} has another sha256 sum than published. Try later, or set WINE_DATA=sample.",
            id="checksum mismatch",
        ),
        pytest.param(
            {"body": packed(CONTENTS)[:-100]},
            "{url}: not the wine archive, or cut short. Try later, or set WINE_DATA=sample.",
            id="truncated archive",
        ),
        pytest.param(
            {"body": packed(CONTENTS).replace(b"PK\x05\x06", b"PK\x05\x07")},
            "{url}: not the wine archive, or cut short. Try later, or set WINE_DATA=sample.",
            id="spoilt archive",
        ),
        pytest.param(
            {"body": packed({RED: CONTENTS[RED]})},
            "{url}: not the wine archive, or cut short. Try later, or set WINE_DATA=sample.",
            id="a file is missing in the archive",
        ),
        pytest.param(
            {"body": b"<html>come back tomorrow</html>"},
            "{url}: not the wine archive, or cut short. Try later, or set WINE_DATA=sample.",
            id="HTML",
        ),
        pytest.param(
            {"body": b""},
            "{url}: not the wine archive, or cut short. Try later, or set WINE_DATA=sample.",
            id="nothing",
        ),
        pytest.param(
            {"status": 500},
            "UCI cannot be reached (500 Server Error: Internal Server Error for url: {url}). "
            "Try later, or set WINE_DATA=sample.",
            id="server error",
        ),
        pytest.param(
            {"status": 404},
            "UCI cannot be reached (404 Client Error: Not Found for url: {url}). Try later, or set WINE_DATA=sample.",
            id="no such page",
        ),
        pytest.param({"length": 10**6}, "UCI cannot be reached (", id="the connection ends early"),
    ],
)
def test_what_is_not_the_archive_is_told_and_leaves_no_file(uci, change, line):
    vars(uci).update(change)
    assert refusal(DownloadError).startswith(line.format(url=uci.url))


def test_what_was_kept_stays_where_a_new_download_fails(uci):
    folder = download.uci(settings())
    (folder / WHITE).write_bytes(b"mine")
    uci.status = 500
    refusal(DownloadError)
    assert (folder / WHITE).read_bytes() == b"mine"


def test_nobody_listening_is_told(monkeypatch):
    monkeypatch.setenv("WINE_UCI_URL", f"http://127.0.0.1:{free_port()}/wine.zip")
    line = refusal(DownloadError)
    assert line.startswith("UCI cannot be reached ([Errno ")
    assert line.endswith("] Connection refused). Try later, or set WINE_DATA=sample.")


def test_a_silent_server_is_given_up(monkeypatch):
    monkeypatch.setattr(download, "CONNECT_READ_SECONDS", (0.2, 0.2))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("WINE_UCI_URL", f"http://127.0.0.1:{silent.getsockname()[1]}/wine.zip")
        assert refusal(DownloadError) == "UCI cannot be reached (timed out). Try later, or set WINE_DATA=sample."


@pytest.mark.parametrize("url", ["http://uci.example/wine.zip", "https://uci.example/wine.zip"])
@pytest.mark.parametrize("spelling", ["HTTP_PROXY HTTPS_PROXY", "http_proxy https_proxy", "ALL_PROXY", "all_proxy"])
@pytest.mark.parametrize("answers", [True, False], ids=["hangs", "refuses"])
def test_a_proxy_that_does_not_answer_is_named_without_its_password(monkeypatch, url, spelling, answers):
    monkeypatch.setattr(download, "CONNECT_READ_SECONDS", (0.2, 0.2))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1] if answers else free_port()
        for name in spelling.split():
            monkeypatch.setenv(name, f"http://me:hunter2@127.0.0.1:{port}")
        line = refusal(DownloadError, lambda _: download.uci(settings(uci_url=url)))
    why = "timed out" if answers else r"\[Errno \d+\] Connection refused"
    told = rf"UCI cannot be reached through the proxy 127\.0\.0\.1:{port} \(.*{why}.*\)\. Try later, or .*sample\."
    assert re.fullmatch(told, line)


@pytest.mark.parametrize("url", ["", "wine.zip", "gopher://uci/wine.zip", "http://", "http://[::1"])
def test_an_address_that_is_none_is_told(monkeypatch, url):
    monkeypatch.setattr(download, "UCI_SHA256", dict.fromkeys(CONTENTS, "none"))
    config = settings(uci_url=url)
    assert refusal(DownloadError, lambda _: download.uci(config)).endswith("). Try later, or set WINE_DATA=sample.")


@pytest.mark.parametrize("host", ["192.0.2.1", "[2001:db8::1]", "wine.example"])
def test_no_test_reaches_beyond_this_machine(host):
    with pytest.raises(RuntimeError, match=rf"a test wants to reach {re.escape(host.strip('[]'))}, and tests have no "):
        download.uci(settings(uci_url=f"http://{host}/wine.zip"))


@pytest.mark.parametrize("step", ["requests.Response.iter_content", "shutil.copyfileobj", "pathlib.Path.rename"])
def test_a_full_disk_is_told_and_leaves_no_file(uci, monkeypatch, full_disk, step):
    def full(*_args, **_kwargs):
        raise full_disk

    monkeypatch.setattr(step, full)
    assert refusal(DataError) == (
        f"{settings().raw_data}/uci: cannot be used (No space left on device). Free some space or mend the permissions."
    )


def test_a_home_without_write_permission_is_told(uci, open_folder, monkeypatch, without_rights):
    monkeypatch.setenv("WINE_HOME", str(open_folder))
    open_folder.chmod(0o555)
    with without_rights():
        line = refusal(DataError)
    assert line.startswith(f"{open_folder}/wine_data/raw/uci: cannot be used (Permission denied).")
    assert uci.requests == 0


def test_both_kaggle_sets_are_kept_and_a_second_run_reads_them(monkeypatch):
    asked = []

    def from_kaggle(handle: str, path: str, output_dir: str) -> None:
        asked.append(handle)
        (Path(output_dir) / path).write_text(handle)

    monkeypatch.setattr("kagglehub.dataset_download", from_kaggle)
    folder = download.kaggle(settings())
    assert folder == download.kaggle(settings()) == settings().raw_data / "kaggle"
    assert asked == list(download.KAGGLE_SETS)
    assert {path.name for path in folder.iterdir()} == {"WineQuality.csv", "winequalityN.csv"}


def test_a_kaggle_set_that_cannot_be_had_is_told_and_leaves_no_file(monkeypatch):
    def from_kaggle(handle: str, path: str, output_dir: str) -> None:
        (Path(output_dir) / path).touch()
        if handle.startswith("rajyellow46"):
            raise KeyError("403 Forbidden")

    monkeypatch.setattr("kagglehub.dataset_download", from_kaggle)
    assert refusal(DownloadError, download.kaggle) == (
        "Kaggle set rajyellow46/wine-quality cannot be had ('403 Forbidden'). Try later, or set WINE_DATA=sample."
    )
