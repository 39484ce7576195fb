"""The READMEs as a reader sees them: their prose, links, pictures and blocks."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

from chapters import CHAPTERS
from wine_quality.config import ROOT

READMES = [
    ROOT / "README.md",
    *(ROOT / folder / "README.md" for folder in CHAPTERS.values()),
    *(ROOT / folder / "README.md" for folder in ("wine_data", "models", "images")),
]
PAGES = [*READMES, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
OUTPUT, COMMAND, PYTHON = "text", "sh", "python"


@dataclass(frozen=True)
class Block:
    """A block of code: its language, its text, and the line of the page on which it begins."""

    language: str
    text: str
    line: int


def tokens(page: Path) -> list[Token]:
    return MarkdownIt("commonmark").enable("table").parse(page.read_text())


def inline(page: Path) -> Iterator[Token]:
    """Return what stands within the paragraphs, headings and cells of a page."""
    return (child for token in tokens(page) for child in token.children or [])


def blocks(page: Path) -> list[Block]:
    return [Block(token.info, token.content, token.map[0] + 1) for token in tokens(page) if token.type == "fence"]


def links(page: Path) -> list[str]:
    return [str(token.attrs["href"]) for token in inline(page) if token.type == "link_open"]


def pictures(page: Path) -> list[tuple[str, str]]:
    """Return the words and the file of each picture."""
    images = [token for token in inline(page) if token.type == "image"]
    return [(" ".join(token.content.split()), str(token.attrs["src"])) for token in images]


def headings(page: Path) -> set[str]:
    """Return the anchors of a page, as GitHub makes them of its headings."""
    found = tokens(page)
    titles = [found[at + 1].content for at, token in enumerate(found) if token.type == "heading_open"]
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def prose(page: Path) -> str:
    """Return the words of a page on one line: no blocks, no code, no targets of links."""
    return " ".join(" ".join(token.content for token in inline(page) if token.type in ("text", "image")).split())
