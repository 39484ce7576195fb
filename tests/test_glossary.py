"""Each term of the glossary is in bold and linked where a reader learns it, and each link to the glossary resolves."""

import re

from readmes import PAGES, headings
from test_notebooks import NOTEBOOKS, prose_of, read

from wine_quality.config import ROOT

GLOSSARY = ROOT / "docs" / "glossary.md"
TERMS = re.findall(r"^## (.+)$", GLOSSARY.read_text(), re.MULTILINE)
LINK = r"\]\([^)]*glossary\.md#([^)]+)\)"
BOLD_LINK = rf"\*\*\[[^\]]+{LINK}\*\*|\[\*\*[^\]]+\*\*{LINK}"
TEXTS = [page.read_text() for page in PAGES] + [prose_of(read(path)) for path in NOTEBOOKS]


def anchor(term: str) -> str:
    return re.sub(r"[^\w -]", "", term.lower()).replace(" ", "-")


def test_every_term_is_in_bold_and_linked_where_a_reader_learns_it():
    linked = {found for text in TEXTS for pair in re.findall(BOLD_LINK, text) for found in pair if found}
    assert not [term for term in TERMS if anchor(term) not in linked]


def test_every_link_to_the_glossary_finds_its_term():
    anchors = headings(GLOSSARY)
    assert not [found for text in TEXTS for found in re.findall(LINK, text) if found not in anchors]


def test_terms_are_sorted_and_occur_once():
    assert sorted(set(TERMS), key=str.lower) == TERMS
