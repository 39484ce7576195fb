"""Help with the chapters: start with any of them, check your progress, clean up."""

from wine_quality.errors import SettingsError

CHAPTERS = {
    1: "notebooks",
    2: "experiment_tracking",
    3: "orchestration",
    4: "deployment",
    5: "monitoring",
    6: "scaling",
}


def chapter_of(words: list[str], command: str) -> int:
    """Return the chapter that the words after `make command` name; if they name none, raise a `SettingsError`."""
    if len(words) == 1 and words[0].isdecimal() and int(words[0]) in CHAPTERS:
        return int(words[0])
    typed = f"make {command}" + "".join(f" CH={word}" for word in words)
    raise SettingsError(f"{typed}: which chapter? Give a number from 1 to {max(CHAPTERS)}, as in: make {command} CH=3")
