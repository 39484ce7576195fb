"""A reader who does what the READMEs say: a checkout of their own, a terminal, servers that are left running."""

import re
import shlex
import signal
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests
from readmes import Block
from servers import stop, wait_until
from wiretap import tapped

from wine_quality.config import ROOT
from wine_quality.ports import free_port

PORTS = {  # those of the text, and the setting that moves each
    "4200": "WINE_PREFECT_PORT",
    "5500": "WINE_MLFLOW_PORT",
    "9000": "WINE_S3_PORT",
    "8000": "WINE_SERVE_PORT",
    "5001": "",
    "9001": "",
    "8888": "JUPYTER_PORT",
}
SERVERS = {  # the ports at which each listens once it is there, or what it says then
    "make lab": ("8888",),
    "make up": ("4200", "5500", "9000"),
    "WINE_HOME=.local/simulation make up": ("4200", "5500", "9000"),
    "make cluster": ("4200", "5500", "9000"),
    "make serve": ("8000",),
    "mlflow ui": ("5500",),
    "rclone serve http": ("9001",),
    "mlflow models serve": ("5001",),
    "orchestration.serve": (),
}
MINUTE = 60  # seconds
SERVED = "is being served"
HOME = "/home/you/wine-quality"
ID = "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"


@dataclass
class Reader:
    """A user at a terminal in a checkout; `true_figures` if it has the data that the READMEs describe."""

    checkout: Path
    environment: dict[str, str]
    true_figures: bool
    ports: dict[str, str] = field(default_factory=lambda: {port: str(free_port()) for port in PORTS})
    exports: list[str] = field(default_factory=list)
    servers: list[tuple[subprocess.Popen, Path]] = field(default_factory=list)

    @property
    def contacts(self) -> Path:
        return self.checkout.with_name("contacts")

    def own(self, text: str) -> str:
        """Return a text with this reader's ports in place of those that are usually free."""
        return re.sub(rf"\b({'|'.join(PORTS)})\b", lambda found: self.ports[found[0]], text)

    def terminal(self, script: str) -> dict[str, Any]:
        """Return what a process is started with that runs a script in this reader's terminal."""
        return {
            "args": [*tapped(self.contacts), "bash", "-ec", "\n".join([*self.exports, script])],
            "cwd": self.checkout,
            "env": self.environment | {name: self.ports[port] for port, name in PORTS.items() if name},
            "stderr": subprocess.STDOUT,
        }

    def types(self, block: Block) -> str | Path:
        """Type the commands of a block, and return what they print; of a server, which is left running, the log."""
        self.exports += [line for line in block.text.splitlines() if line.startswith("export ")]
        name = next((name for name in SERVERS if server_of(block.text, name)), None)
        return self.starts(block, SERVERS[name]) if name else self.runs(self.own(block.text))

    def runs(self, script: str, typed: str = "") -> str:
        """Run a script to its end, and return what it prints."""
        streams = {"input": typed, "stdout": subprocess.PIPE, "text": True}
        done = subprocess.run(**self.terminal(script), **streams, timeout=60 * MINUTE)
        assert done.returncode == 0, f"{script}\n{done.stdout}"
        return done.stdout

    def starts(self, block: Block, ports: tuple[str, ...]) -> Path:
        """Start the server of a block, and return its log once it is there."""
        log = self.checkout.with_name(f"terminal-{len(self.servers)}.log")
        with log.open("wb") as screen:
            streams = {"stdin": subprocess.DEVNULL, "stdout": screen}
            process = subprocess.Popen(**self.terminal(self.own(block.text)), **streams, start_new_session=True)
        self.servers.append((process, log))

        def there() -> bool:
            assert process.poll() is None, f"{block.text}\n{log.read_text()}"
            return all(answers(self.ports[port]) for port in ports) if ports else SERVED in log.read_text()

        wait_until(there, block.text)
        return log

    def stops(self) -> None:
        """Press Ctrl-C in each terminal in which a server runs, the newest first."""
        for process, log in reversed(self.servers):
            stop(process, signal.SIGINT)
            assert "make" not in process.args[-1] or "Traceback" not in log.read_text(), log.read_text()
        self.servers.clear()
        self.exports.clear()

    def sees(self, printed: str | Path, expected: str) -> None:
        """Fail if a README shows lines that were not printed; on synthetic data only the first words count."""
        if isinstance(printed, Path):
            wait_until(lambda: self.finds(printed.read_text(), expected), expected)
        else:
            assert self.finds(printed, expected), f"this was not printed:\n{expected}\nbut this:\n{printed}"

    def finds(self, printed: str, expected: str) -> bool:
        """Return whether all lines of a README were printed, in their order."""
        lines = [self.pattern(line) for line in expected.splitlines() if line.strip() != "…"]
        return bool(re.search(" (.* )?".join(lines), " ".join(printed.split())))

    def pattern(self, line: str) -> str:
        """Return a pattern of a line on other data, at another time and in another folder."""
        words = line.split() if self.true_figures else line.split()[:1]
        return "".join(map(self.part, re.split(rf"({ID}|{HOME}|…|\d[\d,.:-]*)", " ".join(words))))

    def part(self, word: str) -> str:
        if re.fullmatch(ID, word):
            return ID
        if word[:1].isdigit():
            return r"\d[\d,.:-]*"
        return {HOME: re.escape(str(self.checkout)), "…": ".*?"}.get(word, re.escape(word))


def answers(port: str) -> bool:
    """Say whether a server answers at a port, be it with a refusal."""
    try:
        requests.get(f"http://127.0.0.1:{port}", timeout=5)
    except requests.RequestException:
        return False
    return True


def server_of(text: str, name: str) -> bool:
    """Say whether a block starts a server: that line and no more, or a command that holds the name."""
    *_, last = text.strip().splitlines()
    return last == name if "make" in name else name in last


def checkout_at(folder: Path) -> Path:
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, names.split("\0")):
        if (ROOT / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes((ROOT / name).read_bytes())
    for command in ("git init -q", "git add -A", "git -c user.name=you -c user.email=you@localhost commit -qm start"):
        subprocess.run(shlex.split(command), cwd=folder, check=True)
    return folder
