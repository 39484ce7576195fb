"""`make book`: a page for every text, links that resolve, and nothing that asks the network."""

import subprocess
import sys
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from readmes import PAGES

from wine_quality.config import ROOT

pytest.importorskip("sphinx", reason="make setup-book installs Sphinx")
pytestmark = [pytest.mark.slow, pytest.mark.long]

LOADED = {"script": "src", "link": "href", "img": "src", "iframe": "src", "source": "src", "video": "src"}


@dataclass
class Page(HTMLParser):
    """What a page loads, where it leads, and its anchors."""

    loads: list[str] = field(default_factory=list)
    leads: list[str] = field(default_factory=list)
    anchors: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.anchors |= {found[name] for name in ("id", "name") if name in found}
        if LOADED.get(tag) in found:
            self.loads.append(found[LOADED[tag]])
        if tag == "a" and "href" in found:
            self.leads.append(found["href"])


def parsed(text: str) -> Page:
    page = Page()
    page.feed(text)
    return page


@pytest.fixture(scope="module")
def book(tmp_path_factory) -> Path:
    """The book, built without a warning."""
    folder = tmp_path_factory.mktemp("book")
    words = ["-q", "-W", "--keep-going", "-c", "book", "-d", str(folder / "cache"), ".", str(folder / "html")]
    done = subprocess.run([sys.executable, "-m", "sphinx", *words], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return folder / "html"


@pytest.fixture(scope="module")
def pages(book) -> dict[Path, Page]:
    return {path: parsed(path.read_text()) for path in book.rglob("*.html") if "_static" not in path.parts}


def outside(page: Page) -> list[str]:
    return [link for link in page.loads if urlsplit(link).netloc]


def dangling(path: Path, page: Page, pages: dict[Path, Page]) -> list[str]:
    """Return the links within the book that lead to no file, or to no anchor of a page."""
    wrong = []
    for link in (*page.leads, *page.loads):
        parts = urlsplit(link)
        if not (parts.scheme or parts.netloc):
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            anchors = pages[target].anchors | {"", "top"} if target in pages else {parts.fragment}
            if not target.is_file() or unquote(parts.fragment) not in anchors:
                wrong.append(link)
    return wrong


def test_every_text_notebook_and_module_is_a_page_that_the_contents_list(book, pages):
    notebooks = [path for path in ROOT.glob("*/*.ipynb") if not path.name.startswith(".")]
    modules = [path for path in ROOT.glob("wine_quality/*.py") if path.stem != "__init__"]
    texts = [path.relative_to(ROOT).with_suffix(".html") for path in (*PAGES, *notebooks)]
    api = [Path("book", "api", "wine_quality", module.stem, "index.html") for module in modules]
    wanted = {book / path for path in (*texts, *api)}
    assert wanted - pages.keys() == set()
    front = book / "README.html"
    listed = {(book / urlsplit(link).path).resolve() for link in pages[front].leads}
    assert wanted - listed - {front} == set()


def test_no_page_loads_anything_from_the_network(book, pages):
    assert {path.name: outside(page) for path, page in pages.items() if outside(page)} == {}
    styles = [path for path in book.rglob("*.css") if "url(http" in path.read_text().replace('"', "").replace("'", "")]
    assert styles == []


def test_every_link_within_the_book_resolves(pages):
    wrong = {path.name: dangling(path, page, pages) for path, page in pages.items()}
    assert {name: links for name, links in wrong.items() if links} == {}


def test_the_index_of_the_search_knows_the_words_of_a_notebook(book):
    index = (book / "searchindex.js").read_text()
    assert index.startswith("Search.setIndex(")
    assert "03-find-the-leak" in index


def test_a_script_from_elsewhere_and_a_dangling_link_would_be_found(tmp_path):
    path = tmp_path / "page.html"
    path.write_text('<script src="//cdn.example/a.js"></script><a href="#no"></a><a href="no.html"></a><a id="yes">')
    page = parsed(path.read_text())
    assert outside(page) == ["//cdn.example/a.js"]
    assert dangling(path, page, {path: page}) == ["#no", "no.html"]
