"""The package's errors: each is one line that says what is wrong, where, and what to do next."""

import re

PASSWORD = re.compile(r"(://[^\s:/@]*:)\S*@")  # in an address, such as postgresql://user:password@host/database


class WineError(Exception):
    """The base class: a command prints its line, with any password in an address masked, and exits with code 1."""

    def __init__(self, line: str) -> None:
        # the line may quote text with line breaks or terminal codes
        plain = "".join(letter if letter.isprintable() else " " for letter in line)
        super().__init__(PASSWORD.sub(r"\1***@", plain))


class SettingsError(WineError):
    """A setting (environment or `.env`) has a value that cannot be used."""


class DataError(WineError):
    """A file or table is not valid. Retrying will not help."""


class DownloadError(WineError):
    """A download failed, and `what` says how. Retrying may help."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{what}. Try later, or set WINE_DATA=sample.")
        self.what = what


class LeakError(WineError):
    """The training set and the set to score share rows."""


class StorageError(WineError):
    """The bucket cannot be used as configured. Retrying will not help."""


class StorageUnavailable(StorageError):
    """The bucket does not respond. Retrying may help."""


class TrackingError(WineError):
    """The tracking store cannot be read or written. Retrying may help."""


class RegistryError(WineError):
    """The model registry cannot carry out the request."""


class PredictionsError(WineError):
    """The predictions database cannot be read. Retrying may help."""


class SearchError(WineError):
    """A search cannot run as requested, or none of its trials succeeded."""


class EngineError(WineError):
    """An engine lost its workers, or their versions differ from the client's. No recorded result is lost: run again."""


class DeploymentError(WineError):
    """Prefect cannot create or start a deployment."""


class AlertError(WineError):
    """An alert could not be delivered. Retrying may help."""


class NotebookError(WineError):
    """A notebook cell failed or printed a warning."""
