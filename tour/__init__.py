"""Help on the way through the chapters: begin anywhere, see how far you are, clean up."""

from wine_quality.errors import SettingsError

CHAPTERS = {  # and the folder of each
    1: "notebooks",
    2: "experiment_tracking",
    3: "orchestration",
    4: "deployment",
    5: "monitoring",
}


def chapter_of(words: list[str]) -> int:
    """Return the chapter that a command line names.

    Raises
    ------
    SettingsError
        It names none.
    """
    if len(words) == 1 and words[0].isdecimal() and int(words[0]) in CHAPTERS:
        return int(words[0])
    raise SettingsError(f"which chapter? Say a number from 1 to {max(CHAPTERS)}, as in: make check CH=3")
