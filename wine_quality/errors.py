"""The errors: each is one line that says what is wrong, where, and what to do next."""

import re

PASSWORD = re.compile(r"(://[^\s:/@]*:)\S*@")  # of an address, such as postgresql://user:password@host/database


class WineError(Exception):
    """The base of all: a command prints its line, a password in an address masked, and ends with exit code 1."""

    def __init__(self, line: str) -> None:
        # what the line quotes may hold line breaks or terminal codes
        plain = "".join(letter if letter.isprintable() else " " for letter in line)
        super().__init__(PASSWORD.sub(r"\1***@", plain))


class SettingsError(WineError):
    """A setting (environment or `.env`) has a value that cannot be used."""


class DataError(WineError):
    """A file or table is not what it should be. Trying again will not help."""


class DownloadError(WineError):
    """A download failed, and `what` says how. Trying again may help."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{what}. Try later, or set WINE_DATA=sample.")
        self.what = what


class LeakError(WineError):
    """A row is in the training set and in the set to score."""


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


class EngineError(WineError):
    """The workers of an engine are lost, or differ from their client. Run again: what was recorded is kept."""


class DeploymentError(WineError):
    """Prefect cannot set up or start what was asked."""


class AlertError(WineError):
    """Nobody takes an alert. Trying again may help."""


class NotebookError(WineError):
    """A cell of a notebook failed, or warned."""
