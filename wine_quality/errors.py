"""Every error a reader may meet: one line that says what is wrong, where, and what to do next."""

import re

PASSWORD = re.compile(r"(://[^\s:/@]*:)\S*@")  # of an address, such as postgresql://user:password@host/database


class WineError(Exception):
    """The base of all; a command that meets one prints its line and ends with exit code 1.

    Causes are quoted in such a line, and libraries quote addresses: a password in an address is masked.
    """

    def __init__(self, line: str) -> None:
        # a file, folder or cause named in the line may hold line breaks or terminal codes: it stays one plain line
        plain = "".join(letter if letter.isprintable() else " " for letter in line)
        super().__init__(PASSWORD.sub(r"\1***@", plain))


class SettingsError(WineError):
    """A setting (environment or `.env`) has a value that cannot be used."""


class DataError(WineError):
    """A file or table is not the wine it should be. Trying again will not help."""


class DownloadError(WineError):
    """A download failed, and `what` says how. Trying again may help."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{what}. Try later, or set WINE_DATA=sample.")
        self.what = what


class LeakError(WineError):
    """The same wine stands on both sides of a split."""


class StorageError(WineError):
    """The bucket cannot be used as it is set up. Trying again will not help."""


class StorageUnavailable(StorageError):
    """The bucket does not answer. Trying again may help."""


class TrackingError(WineError):
    """The tracking store cannot be read or written. Trying again may help."""


class RegistryError(WineError):
    """The model registry cannot do what was asked."""


class PredictionsError(WineError):
    """The store of predictions cannot be read. Trying again may help."""


class SearchError(WineError):
    """A search cannot be made as it was asked for, or none of its trials ended well."""


class DeploymentError(WineError):
    """Prefect cannot set up or start what was asked."""


class AlertError(WineError):
    """Nobody takes an alert. Trying again may help."""


class NotebookError(WineError):
    """A cell of a notebook failed, or warned."""
