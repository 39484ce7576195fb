"""Try the newest version of every direct dependency, and write into docs/versions.md which of them work.

`make canary` clones the last commit into a temporary folder, replaces the bounds of pyproject.toml by the newest
versions that can be installed together, and runs `make run` and `make test` there on the sample. If a command fails, it
runs again with each newer version alone on top of requirements.txt. A version that fails is reported with its error and
left out, and the rest is tried again. After `--minutes` nothing new is started.

The exit code is 1 if a version fails that pyproject.toml admits: then add a bound, or adapt the code.
"""

import argparse
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from chapters.install import pip_settings, uv_environment
from wine_quality.config import ROOT

PAGE = ROOT / "docs" / "versions.md"
BEGIN, END = "<!-- canary: begin -->", "<!-- canary: end -->"
LIMITS = {"setup": 900, "run": 600, "test": 2400}  # seconds
LONGEST = 200  # characters of an error in the table
WORKS, NOT_TRIED = "works", "not tried: no time was left"
FAILURE = re.compile(r"^(?:FAILED|ERROR) (\S+?\.py\S*).*$", re.MULTILINE)


def direct() -> dict[str, Requirement]:
    """Return the direct dependencies of pyproject.toml on this platform, those for development included."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    listed = map(Requirement, [*project["dependencies"], *project["optional-dependencies"]["dev"]])
    return {one.name: one for one in listed if not one.marker or one.marker.evaluate()}


def without_upper_bound(requirement: Requirement) -> str:
    """Return a requirement that admits every later version; `==` becomes `>=`."""
    lower = [
        f">={one.version.removesuffix('.*')}" if one.operator in ("==", "~=") else str(one)
        for one in requirement.specifier
        if one.operator not in ("<", "<=")
    ]
    return with_specifier(requirement, ",".join(lower))


def with_specifier(requirement: Requirement, specifier: str) -> str:
    """Return the text of a requirement with another specifier and no marker."""
    changed = Requirement(str(requirement))
    changed.specifier, changed.marker = SpecifierSet(specifier), None
    return str(changed)


def pins(text: str) -> dict[str, str]:
    """Return the versions that the lines of a lock file pin on this platform."""
    lines = re.findall(r"^[A-Za-z0-9][^#\n]*==[^#\n\\]*", text, re.MULTILINE)
    listed = [one for one in map(Requirement, lines) if not one.marker or one.marker.evaluate()]
    return {one.name: next(iter(one.specifier)).version for one in listed}


def compiled(requirements: Iterable[str], *options: str | Path) -> str:
    """Return the lock file that uv resolves requirements to.

    Raises
    ------
    ValueError
        There is no solution; the line says why.
    """
    command = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--no-header", "--no-annotate", "-", *options]
    done = subprocess.run(
        command, input="\n".join(requirements), env=uv_environment(pip_settings()), capture_output=True, text=True
    )
    if done.returncode:
        raise ValueError(cause(done.stderr))
    return done.stdout


def cause(said: str) -> str:
    """Return the first reason in what uv says, as one line."""
    words = " ".join(said.split())
    return re.sub(r".*?(?:cause:|╰─▶) (?:Because )?(.*?)(?:, we can conclude| And because|$).*", r"\1", words)[:LONGEST]


def exactly(requirements: dict[str, Requirement], versions: dict[str, str]) -> list[str]:
    """Return requirements at one version each."""
    return [with_specifier(one, f"=={versions[name]}") for name, one in requirements.items()]


def installable(
    requirements: dict[str, Requirement], pinned: dict[str, str], newest: dict[str, str]
) -> tuple[dict[str, str], dict[str, str]]:
    """Return the newer versions that can be installed together, and why not the others; the first listed wins."""
    together, refused = {}, {}
    for name in requirements:
        if Version(newest[name]) > Version(pinned[name]):
            try:
                compiled(exactly(requirements, pinned | together | {name: newest[name]}))
                together[name] = newest[name]
            except ValueError as error:
                refused[name] = f"cannot be installed: {error}"
    return together, refused


class Checkout:
    """A clone of the last commit with an environment of its own."""

    def __init__(self, folder: Path, requirements: dict[str, Requirement]) -> None:
        self.folder, self.requirements = folder / "clone", requirements
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(self.folder)], check=True)
        self.lock = self.folder / "requirements.txt"
        self.pinned_lock = self.lock.read_text()
        self.pinned = pins(self.pinned_lock)
        self.environment = {**os.environ, "WINE_DATA": "sample", "WINE_HOME": str(folder), "COLUMNS": "500"}

    def install(self, newer: dict[str, str], *options: str) -> str:
        """Install newer versions on top of the pinned ones; return the error."""
        self.lock.write_text(self.pinned_lock)
        try:
            compiled(exactly(self.requirements, self.pinned | newer), "--output-file", self.lock, *options)
        except ValueError as error:
            return f"cannot be installed: {error}"
        ready = self.folder / ".venv" / ".ready"
        again = [".venv/bin/python", "chapters/install.py", f"uv=={version('uv')}"]
        _, error = self.run(again if ready.exists() else ["make", "setup"], LIMITS["setup"])
        ready.touch()  # or make would begin with an empty environment each time
        return error

    def run(self, command: list[str], limit: float) -> tuple[str, str]:
        """Run a command; return what it printed, and one line about its error, empty where there is none."""
        with tempfile.TemporaryFile("w+") as log:
            process = subprocess.Popen(
                command,
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
            try:
                code = process.wait(limit)
            except subprocess.TimeoutExpired:
                code = None
            finally:
                kill_group(process)
            log.seek(0)
            said = log.read()
        if code is None:
            return said, f"`{' '.join(command)}` did not end in {limit:.0f} seconds"
        return said, error_line(said) if code else ""

    def first_failure(self) -> tuple[list[str], float, str]:
        """Run the main job and the quick tests; return what failed, its time limit and its error, or no error."""
        for target in ("run", "test"):
            said, error = self.run(["make", target], LIMITS[target])
            if error:
                tests = sorted(set(FAILURE.findall(said))) if target == "test" else []
                command = [".venv/bin/python", "-m", "pytest", "-q", *tests] if tests else ["make", target]
                return command, LIMITS[target], error
        return [], 0, ""


def kill_group(process: subprocess.Popen) -> None:
    """End a process and what it started in its session."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.wait()


def error_line(said: str) -> str:
    """Return the line of an output that tells best what went wrong."""
    lines = [line.removeprefix("E ").strip() for line in said.splitlines() if not re.match(r"\s*$|make", line)]
    telling = [line for line in lines if re.match(r"FAILED |ERROR |error: |[\w.]+(Error|Warning|Exception): ", line)]
    return (telling or lines or ["it failed without a word"])[0 if telling else -1][:LONGEST]


def verified(checkout: Checkout, newer: dict[str, str], is_late: Callable[[], bool]) -> dict[str, str]:
    """Return for each newer version that it works, or its error."""
    results: dict[str, str] = {}
    while newer and not is_late():
        command, limit, error = [], 0.0, checkout.install(newer, "--upgrade")
        if not error:
            command, limit, error = checkout.first_failure()
        if not error:
            return results | dict.fromkeys(newer, WORKS)
        print(f"together: {error}", flush=True)
        alone = {}
        for name in newer:
            if is_late():
                return results | dict.fromkeys(newer, f"{NOT_TRIED}; all together: {error}") | alone
            alone[name] = tried_alone(checkout, {name: newer[name]}, command, limit) or WORKS
        failed = {name: text for name, text in alone.items() if text != WORKS}
        if not failed:
            return results | dict.fromkeys(newer, f"alone it works, all together: {error}")
        results |= failed
        newer = {name: number for name, number in newer.items() if name not in failed}
    return results | dict.fromkeys(newer, NOT_TRIED)


def tried_alone(checkout: Checkout, newer: dict[str, str], command: list[str], limit: float) -> str:
    """Return the error of a command with one newer version on top of the pinned ones, or an empty text."""
    error = checkout.install(newer) or (checkout.run(command, limit)[1] if command else "")
    print(f"alone, {newer}: {error or WORKS}", flush=True)
    return error


def table(pinned: dict[str, str], newest: dict[str, str], results: dict[str, str], names: Iterable[str]) -> str:
    """Return the table of the page, with the date."""
    rows = [
        f"| {name} | {pinned[name]} | {newest[name]} | {results.get(name, 'pinned').replace('|', '¦')} |"
        for name in sorted(names, key=lambda name: (name not in results, name))
    ]
    python = ".".join(map(str, sys.version_info[:3]))
    return "\n".join(
        [
            f"Last verified on {datetime.now(UTC):%Y-%m-%d}, with Python {python} on {sys.platform}.",
            "",
            "| package | pinned | newest | result |",
            "| --- | --- | --- | --- |",
            *rows,
        ]
    )


def between_markers(page: str, text: str) -> str:
    """Return a page with a text between the two markers."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{text}\n\n{END}{after}"


def main(minutes: float) -> int:
    """Try the newest of everything, write the page, and return 1 where a version fails that pyproject.toml admits."""
    until = time.monotonic() + 60 * minutes
    requirements, pinned = direct(), pins((ROOT / "requirements.txt").read_text())
    newest = pins(compiled(map(without_upper_bound, requirements.values()), "--no-deps"))
    newer, results = installable(requirements, pinned, newest)
    print(f"uv {version('uv')} finds newer: {newer}\nnot installable: {results}", flush=True)
    with tempfile.TemporaryDirectory(prefix="canary-") as folder:
        results |= verified(Checkout(Path(folder), requirements), newer, lambda: time.monotonic() > until)
    text = table(pinned, newest, results, requirements)
    PAGE.write_text(between_markers(PAGE.read_text(), text))
    print(text)
    broken = [name for name, text in results.items() if is_broken(text)]
    return int(any(requirements[name].specifier.contains(newest[name]) for name in broken))


def is_broken(result: str) -> bool:
    """Say whether a version was tried and failed."""
    return result != WORKS and not result.startswith((NOT_TRIED, "cannot be installed"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Try the newest version of every direct dependency.")
    parser.add_argument("--minutes", type=float, default=90, help="after them, start no further try (default: 90)")
    sys.exit(main(parser.parse_args().minutes))
