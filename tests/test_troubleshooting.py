"""The table of errors lists only existing ones, and each one in which the first steps may end."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from wine_quality.config import ROOT
from wine_quality.schema import MEASUREMENTS

TABLE = (ROOT / "docs" / "troubleshooting.md").read_text()
ROWS = [line.split("|")[1] for line in TABLE.splitlines() if line.startswith("| ")]
LISTED = [piece for row in ROWS for piece in re.findall("`(.+?)`", row)]
FOLDERS = ("wine_quality", "orchestration", "deployment", "monitoring", "chapters")
FIRST_STEPS = ("config", "sources", "tables", "download", "splits", "files", "storage", "local_s3", "tracking")
OF_OTHERS = {"…", "bucket …: …", "a zero byte"}  # words of MLflow or of the S3 server, and a cause within a line
NAMES = ("the local S3 server",)  # that are inserted into a line
ALCOHOL = MEASUREMENTS["alcohol"]


def said(path: Path) -> Iterator[str]:
    """Return what each error of a module says, with … where a value goes in."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and re.search("(Error|Unavailable|kind)$", ast.unparse(node.func)) and node.args:
            yield text_of(node.args[0])


def text_of(node: ast.expr) -> str:
    if isinstance(node, ast.JoinedStr):
        return "".join(text_of(part) for part in node.values)
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else "…"


@pytest.fixture(scope="module")
def texts() -> str:
    paths = [path for folder in FOLDERS for path in (ROOT / folder).glob("*.py")]
    nodes = [node for path in paths for node in ast.walk(ast.parse(path.read_text()))]
    found = [text_of(node) for node in nodes if isinstance(node, ast.JoinedStr | ast.Constant)]
    return "\n".join([*found, (ROOT / "Makefile").read_text()])


@pytest.mark.parametrize("piece", LISTED)
def test_what_the_table_quotes_is_said_somewhere(piece, texts):
    if name := next((name for name in NAMES if piece.startswith(name)), ""):
        assert name in texts
        piece = piece.replace(name, "…")
    assert piece in texts or piece == f"is not {ALCOHOL.low:g} to {ALCOHOL.high:g} {ALCOHOL.unit}"


@pytest.mark.parametrize("module", FIRST_STEPS)
def test_every_error_of_the_first_steps_is_in_the_table(module):
    lines = set(said(ROOT / "wine_quality" / f"{module}.py")) - OF_OTHERS
    assert not [line for line in lines if not any(piece in line for piece in LISTED)]
