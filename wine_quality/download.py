"""Download datasets: the UCI archive, and the two Kaggle sets. A download is stored and reused."""

import logging
import shutil
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pooch
import requests
from tqdm import tqdm

from wine_quality.config import Settings
from wine_quality.errors import DownloadError
from wine_quality.files import translate_disk_errors

log = logging.getLogger(__name__)

UCI_SHA256 = {
    "winequality-red.csv": "4a402cf041b025d4566d954c3b9ba8635a3a8a01e039005d97d6a710278cf05e",
    "winequality-white.csv": "76c3f809815c17c07212622f776311faeb31e87610d52c26d87d6e361b169836",
}
KAGGLE_SETS = {
    "subhajournal/wine-quality-data-combined": "WineQuality.csv",
    "rajyellow46/wine-quality": "winequalityN.csv",
}
CONNECT_READ_SECONDS = (3, 10)


def is_downloaded(config: Settings) -> bool:
    """Return whether the UCI files were downloaded before and are intact."""
    folder = config.raw_data / "uci"
    with translate_disk_errors(folder):
        return all((folder / name).is_file() for name in UCI_SHA256) and not damaged(folder)


def damaged(folder: Path) -> list[str]:
    """Return the names of the UCI files whose checksum differs from the published one."""
    return [name for name, sha256 in UCI_SHA256.items() if pooch.file_hash(str(folder / name)) != sha256]


def uci(config: Settings) -> Path:
    """Return the folder with the two UCI files, downloading them if necessary, or raise `DownloadError`."""
    folder = config.raw_data / "uci"
    return folder if is_downloaded(config) else fill_folder(folder, lambda aside: unpack_uci(config.uci_url, aside))


def unpack_uci(url: str, folder: Path) -> None:
    """Download the archive, unpack its two CSV files into `folder` and verify their checksums."""
    pooch.get_logger().setLevel("WARNING")
    # pooch's own bar leaves an unfinished line if a download fails, and pooch rejects a bar without a total
    bar = tqdm(total=1, unit="B", unit_scale=True, disable=None, leave=False)
    downloader: Any = pooch.HTTPDownloader(progressbar=bar, timeout=CONNECT_READ_SECONDS)  # pyright: ignore[reportArgumentType]
    try:
        with bar:
            archive = pooch.retrieve(url, known_hash=None, fname="wine.zip", path=folder, downloader=downloader)
    except (requests.RequestException, ValueError) as error:
        through = ""
        if isinstance(error, requests.ConnectionError | requests.Timeout):
            proxy = requests.utils.select_proxy(url, requests.utils.get_environ_proxies(url))
            through = f" through the proxy {proxy.rpartition('@')[2].rpartition('/')[2] or 'set'}" if proxy else ""
        raise DownloadError(f"UCI cannot be reached{through} ({reason(error)})") from None
    try:
        with zipfile.ZipFile(archive) as packed:
            for name in UCI_SHA256:
                packed.extract(name, folder)
    except OSError:  # a problem with the disk, not with the archive
        raise
    except Exception:  # zipfile raises a different class for each way in which an archive can be broken
        raise DownloadError(f"{url}: not the wine archive, or truncated") from None
    Path(archive).unlink()
    if wrong := damaged(folder):
        raise DownloadError(f"{url}: the SHA-256 checksum of {wrong[0]} differs from the published one")


def kaggle(config: Settings) -> Path:
    """Return the folder with the two Kaggle files, downloading them if necessary, or raise `DownloadError`."""
    folder = config.raw_data / "kaggle"
    with translate_disk_errors(folder):
        complete = all((folder / name).is_file() for name in KAGGLE_SETS.values())
    return folder if complete else fill_folder(folder, download_kaggle)


def download_kaggle(folder: Path) -> None:
    """Download both sets into `folder` with Kaggle's own client."""
    import kagglehub  # takes a second to import, and few users need it

    for handle, name in KAGGLE_SETS.items():
        try:
            kagglehub.dataset_download(handle, path=name, output_dir=str(folder))
        except Exception as error:  # the client raises different classes for network, permissions and names
            raise DownloadError(f"the Kaggle dataset {handle} is not available ({reason(error)})") from error


def fill_folder(folder: Path, fill: Callable[[Path], None]) -> Path:
    """Fill a temporary folder, move it into place once it is complete, and return its path."""
    with translate_disk_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".part-") as aside:
            whole = Path(aside) / folder.name
            whole.mkdir()
            fill(whole)
            if folder.exists():
                shutil.move(folder, Path(aside) / "old")
            whole.rename(folder)
    log.info("download  stored in %s", folder)
    return folder


def reason(error: BaseException) -> str:
    """Return the innermost cause of an error in a few words."""
    while cause := error.__cause__ or error.__context__:
        error = cause
    return str(error).split("\n")[0][:200] or type(error).__name__
