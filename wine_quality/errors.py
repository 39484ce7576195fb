"""Every error a reader may meet: one line that says what is wrong, where, and what to do next."""


class WineError(Exception):
    """The base of all; a command that meets one prints its line and ends with exit code 1."""

    def __init__(self, line: str) -> None:
        # a file, folder or cause named in the line may hold line breaks or terminal codes: it stays one plain line
        super().__init__("".join(letter if letter.isprintable() else " " for letter in line))


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
