"""Render reports from the Jinja templates of the chapters."""

from typing import Any

from jinja2 import Environment, FileSystemLoader, select_autoescape

from wine_quality.config import ROOT

TEMPLATES = Environment(
    loader=FileSystemLoader(sorted(ROOT.glob("*/templates"))),
    autoescape=select_autoescape(["html.j2"]),
    trim_blocks=True,
    lstrip_blocks=True,
)


def render(template: str, **values: Any) -> str:
    """Return a rendered template; values are escaped in HTML."""
    return TEMPLATES.get_template(template).render(**values)
