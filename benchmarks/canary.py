"""Try the newest version of every direct dependency, and write to docs/versions.md which of them work.

`make canary` clones the last commit into a temporary folder, replaces the bounds of pyproject.toml by the newest
versions that can be installed together, and runs `make run` and `make test` there on the sample. If a command fails, it
runs again with each newer version alone on top of requirements.txt. A version that fails is reported with its error and
left out, and the rest is tried again. After 90 minutes, nothing new is started.

The exit code is 1 if a version fails that pyproject.toml allows: add a bound then, or adapt the code.
"""

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

from chapters.install import pip_settings, uv_environment
from wine_quality.config import ROOT

PAGE = ROOT / "docs" / "versions.md"
BEGIN, END = "<!-- canary: begin -->", "<!-- canary: end -->"
SECONDS, COMMAND_SECONDS = 90 * 60, 40 * 60
LONGEST = 200  # characters of an error in the table
WORKS, NOT_TRIED, NOT_INSTALLABLE = "works", "not tested: out of time", "cannot be installed"
FAILED_TEST = re.compile(r"^(?:FAILED|ERROR) (\S+?\.py\S*).*$", re.MULTILINE)


def direct() -> dict[str, Requirement]:
    """Return the direct dependencies of pyproject.toml on this platform, those for development included."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    listed = map(Requirement, [*project["dependencies"], *project["optional-dependencies"]["dev"]])
    return {one.name: one for one in listed if not one.marker or one.marker.evaluate()}


def at_versions(requirements: dict[str, Requirement], versions: dict[str, str]) -> list[str]:
    """Return requirements with their extras, each at a version if it is given, else without any bound."""
    extras = {name: f"{name}[{','.join(sorted(one.extras))}]" for name, one in requirements.items()}
    return [f"{words}=={versions[name]}" if name in versions else words for name, words in extras.items()]


def pins(text: str) -> dict[str, str]:
    """Return the versions that the lines of a lock file pin on this platform."""
    lines = re.findall(r"^[A-Za-z0-9][^#\n]*==[^#\n\\]*", text, re.MULTILINE)
    listed = [one for one in map(Requirement, lines) if not one.marker or one.marker.evaluate()]
    return {one.name: next(iter(one.specifier)).version for one in listed}


def resolve(requirements: Iterable[str], *options: str | Path) -> str:
    """Return the lock file that uv resolves requirements to; a `ValueError` says why there is none."""
    command = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--no-header", "--no-annotate", "-", *options]
    text, own = "\n".join(requirements), uv_environment(pip_settings())
    done = subprocess.run(command, input=text, env=own, capture_output=True, text=True)
    if done.returncode:
        raise ValueError(f"{NOT_INSTALLABLE}: {cause(done.stderr)}")
    return done.stdout


def cause(stderr: str) -> str:
    """Return the first reason that uv gives, as one line."""
    words = " ".join(stderr.split())
    return re.sub(r".*?(?:cause:|╰─▶) (?:Because )?(.*?)(?:, we can conclude| And because|$).*", r"\1", words)[:LONGEST]


def installable(
    requirements: dict[str, Requirement], pinned: dict[str, str], newest: dict[str, str]
) -> tuple[dict[str, str], dict[str, str]]:
    """Return the newer versions that can be installed together, and why not the others; the first listed wins."""
    together, errors = {}, {}
    for name in requirements:
        if Version(newest[name]) > Version(pinned[name]):
            try:
                resolve(at_versions(requirements, pinned | together | {name: newest[name]}))
                together[name] = newest[name]
            except ValueError as error:
                errors[name] = str(error)
    return together, errors


class Checkout:
    """A clone of the last commit with an environment of its own."""

    def __init__(self, folder: Path, requirements: dict[str, Requirement]) -> None:
        self.folder, self.requirements = folder / "clone", requirements
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(self.folder)], check=True)
        self.lock = self.folder / "requirements.txt"
        self.pinned_lock = self.lock.read_text()
        self.environment = {**os.environ, "WINE_DATA": "sample", "WINE_HOME": str(folder), "COLUMNS": "500"}

    def install(self, newer: dict[str, str]) -> str:
        """Install newer versions on top of the pinned ones; return the error."""
        self.lock.write_text(self.pinned_lock)
        try:
            resolve(at_versions(self.requirements, pins(self.pinned_lock) | newer), "--output-file", self.lock)
        except ValueError as error:
            return str(error)
        return self.run(["make", "setup"])[1]

    def run(self, command: list[str], seconds: float = COMMAND_SECONDS) -> tuple[str, str]:
        """Run a command; return what it printed, and one line about its error, empty if there is none."""
        with tempfile.TemporaryFile("w+") as log:
            process = subprocess.Popen(
                command, cwd=self.folder, env=self.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
            code = None
            try:
                with suppress(subprocess.TimeoutExpired):
                    code = process.wait(seconds)
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)  # and its children
                process.wait()
            log.seek(0)
            output = log.read()
        if code is None:
            return output, f"`{' '.join(command)}` did not end in {seconds:.0f} seconds"
        return output, error_line(output) if code else ""

    def first_failure(self, newer: dict[str, str]) -> tuple[list[str], str]:
        """Try newer versions; return the command that repeats what failed and its error, empty if all is well."""
        if error := self.install(newer):
            return ["make", "setup"], error
        for target in ("run", "test"):
            output, error = self.run(["make", target])
            if error:
                tests = sorted(set(FAILED_TEST.findall(output)))
                return [".venv/bin/python", "-m", "pytest", "-q", *tests] if tests else ["make", target], error
        return [], ""


def error_line(output: str) -> str:
    """Return the line of an output that best explains what went wrong."""
    lines = [line.removeprefix("E ").strip() for line in output.splitlines() if not re.match(r"\s*$|make", line)]
    telling = [line for line in lines if re.match(r"FAILED |ERROR |error: |[\w.]+(Error|Warning|Exception): ", line)]
    return (telling or lines or ["it failed without a message"])[0 if telling else -1][:LONGEST]


def verify(checkout: Checkout, newer: dict[str, str], is_late: Callable[[], bool]) -> dict[str, str]:
    """Return for each newer version that it works, or its error."""
    results: dict[str, str] = {}
    while newer and not is_late():
        command, error = checkout.first_failure(newer)
        if not error:
            return results | dict.fromkeys(newer, WORKS)
        print(f"together: {error}", flush=True)
        alone = {}
        for name in newer:
            if is_late():
                return results | dict.fromkeys(newer, f"{NOT_TRIED}; with all newer versions together: {error}") | alone
            alone[name] = checkout.install({name: newer[name]}) or checkout.run(command)[1] or WORKS
            print(f"alone, {name} {newer[name]}: {alone[name]}", flush=True)
        failed = {name: text for name, text in alone.items() if text != WORKS}
        if not failed:
            return results | dict.fromkeys(newer, f"alone it works; with all newer versions together: {error}")
        results |= failed
        newer = {name: number for name, number in newer.items() if name not in failed}
    return results | dict.fromkeys(newer, NOT_TRIED)


def table(pinned: dict[str, str], newest: dict[str, str], results: dict[str, str], names: Iterable[str]) -> str:
    """Return the table of the page, with the date."""
    python = ".".join(map(str, sys.version_info[:3]))
    lines = [
        f"Last verified on {datetime.now(UTC):%Y-%m-%d}, with Python {python} on {sys.platform}.",
        "",
        "| package | pinned | newest | result |",
        "| --- | --- | --- | --- |",
    ]
    for name in sorted(names, key=lambda name: (name not in results, name)):
        lines.append(f"| {name} | {pinned[name]} | {newest[name]} | {results.get(name, 'pinned').replace('|', '¦')} |")
    return "\n".join(lines)


def between_markers(page: str, text: str) -> str:
    """Return a page with a text between the two markers."""
    before, rest = page.split(BEGIN)
    return f"{before}{BEGIN}\n\n{text}\n\n{END}{rest.split(END)[1]}"


def is_broken(result: str) -> bool:
    """Return whether a version was tried and failed."""
    return not result.startswith((WORKS, NOT_TRIED, NOT_INSTALLABLE))


def main() -> int:
    """Try the newest versions, write the page, and return 1 if a version fails that pyproject.toml allows."""
    until = time.monotonic() + SECONDS
    requirements, pinned = direct(), pins((ROOT / "requirements.txt").read_text())
    newest = pins(resolve(at_versions(requirements, {}), "--no-deps"))
    newer, results = installable(requirements, pinned, newest)
    print(f"uv {version('uv')} finds newer: {newer}\n{results}", flush=True)
    with tempfile.TemporaryDirectory(prefix="canary-") as folder:
        results |= verify(Checkout(Path(folder), requirements), newer, lambda: time.monotonic() > until)
    text = table(pinned, newest, results, requirements)
    PAGE.write_text(between_markers(PAGE.read_text(), text))
    print(text)
    broken = [name for name, result in results.items() if is_broken(result)]
    return int(any(requirements[name].specifier.contains(newest[name]) for name in broken))


if __name__ == "__main__":
    sys.exit(main())
