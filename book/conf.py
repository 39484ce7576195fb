"""The Sphinx configuration of `make book`, which builds a website from the repository's pages, in .local/book.

Each page of the book is an existing file of the repository. Only the tables of contents are added here.
"""

from docutils import nodes
from sphinx.application import Sphinx

from chapters import CHAPTERS

project = "Wine quality"
root_doc = "README"

CARDS = ("wine_data", "models", "images")
PACKAGES = ("wine_quality", "orchestration", "deployment", "monitoring", "scaling", "chapters")
PARTS = {
    "Chapters": [f"{folder}/README" for folder in CHAPTERS.values()],
    "Guides": ["docs/*"],
    "Data, models, images": [f"{folder}/README" for folder in CARDS],
    "Code": ["CONTRIBUTING", *(f"book/api/{package}/index" for package in PACKAGES)],
}

extensions = ["myst_nb", "autoapi.extension", "sphinx.ext.napoleon", "sphinx.ext.viewcode", "sphinx_copybutton"]
exclude_patterns = [".*"]
include_patterns = [
    "README.md",
    "CONTRIBUTING.md",
    "docs/*.md",
    *(f"{folder}/README.md" for folder in (*CHAPTERS.values(), *CARDS)),
    *(f"{folder}/*.ipynb" for folder in CHAPTERS.values()),
    "book/api/**",
]

myst_heading_anchors = 6
nb_execution_mode = "off"
nb_ipywidgets_js = {}

default_role = "code"  # docstrings mark code with single backticks, as Markdown does
autoapi_root = "book/api"
autoapi_dirs = list(PACKAGES)
autoapi_options = ["members"]
autoapi_add_toctree_entry = False
suppress_warnings = ["autoapi.python_import_resolution"]  # it can't resolve names that are assigned as `A, B = 1, 2`

html_theme = "pydata_sphinx_theme"
html_title = project
templates_path = ["templates"]
html_static_path = ["static"]
html_extra_path = ["index.html"]
html_css_files = ["book.css"]
html_sidebars = {"**": ["contents"]}
html_show_sourcelink = False
html_theme_options = {
    "navbar_center": [],
    "show_nav_level": 1,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": [],
    "footer_end": [],
}


def table_of_contents(pages: list[str], caption: str = "") -> str:
    """Return a hidden table of contents as MyST Markdown."""
    options = [":hidden:", ":glob:", *([f":caption: {caption}"] if caption else [])]
    return "\n".join(["\n```{toctree}", *options, "", *pages, "```\n"])


def add_contents(app: Sphinx, page: str, source: list[str]) -> None:
    """Add the parts of the book to the front page, and its notebooks to each chapter."""
    if page == root_doc:
        source[0] += "".join(table_of_contents(pages, caption) for caption, pages in PARTS.items())
    elif page in PARTS["Chapters"] and any((app.srcdir / page).parent.glob("*.ipynb")):
        source[0] += table_of_contents(["*-*"])


def link_pictures(app: Sphinx, page: nodes.document) -> None:
    """Link each picture to its file, because a phone shows it small. Sphinx adds such links to scaled pictures only."""
    for picture in page.findall(nodes.image):
        picture["scale"] = 100


def skip_attributes(app: Sphinx, kind: str, name: str, thing: object, skip: bool, options: list[str]) -> bool | None:
    """Skip class attributes, because the only ones with docstrings inherit them from libraries."""
    return True if kind == "attribute" else None


def setup(app: Sphinx) -> None:
    """Register the event handlers."""
    app.connect("source-read", add_contents)
    app.connect("doctree-read", link_pictures)
    app.connect("autoapi-skip-member", skip_attributes)
