"""Help on the way through the chapters: begin anywhere, see how far you are, clean up."""

from wine_quality.errors import SettingsError

CHAPTERS = range(1, 6)


def chapter_of(words: list[str]) -> int:
    """Return the chapter that a command line names.

    Raises
    ------
    SettingsError
        It names none.
    """
    if len(words) == 1 and words[0].isdecimal() and int(words[0]) in CHAPTERS:
        return int(words[0])
    raise SettingsError(f"which chapter? Say a number from 1 to {CHAPTERS[-1]}, as in: make check CH=3")
