"""Render the pages, and the audit's text, from the Jinja2 templates next to this file: pages without network.

A drawing is made in the light colours of the palette; `inline_svg` replaces each by the page's variable, so that it
follows the page into the dark scheme. The colours were searched for series that stand out from the paper and that
people with any colour blindness tell apart (simulated as by Machado, Oliveira and Fernandes, 2009). Series differ by
marker and line as well.
"""

import base64
import re
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from markupsafe import Markup, escape

from facefold.data.images import encode_thumbnail
from facefold.utils.files import sha256_text

SERIES = {  # css variable: (light, dark)
    "c0": ("#01416f", "#46aaec"),
    "c1": ("#a5400c", "#f0762e"),
    "c2": ("#2a9d7d", "#9ee8dc"),
    "c3": ("#c243a8", "#de5cc2"),
    "c4": ("#ac8829", "#e7d8a6"),
    "c5": ("#5d6269", "#93989f"),
}
PAGE = {
    "ink": ("#1a1c1f", "#e7e9ec"),
    "faint": ("#5c6066", "#a2a8b0"),
    "paper": ("#ffffff", "#14171b"),
    "soft": ("#f3f5f7", "#1f2329"),
    "line": ("#d3d7dc", "#3a4048"),
    "lead": ("#e4f0fa", "#12304a"),
}
COLOURS = tuple(light for light, _ in SERIES.values())
INK, FAINT, PAPER = (PAGE[name][0] for name in ("ink", "faint", "paper"))
TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent),
    autoescape=select_autoescape(["html.j2"]),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
TEMPLATES.globals["palette"] = PAGE | SERIES


def inline_thumbnail(path: Path, pixels: int) -> str:
    """Return the image `path`, `pixels` a side, as a data URI."""
    return f"data:image/jpeg;base64,{base64.b64encode(encode_thumbnail(path, pixels)).decode('ascii')}"


def render_page(template: str, **data) -> str:
    """Render a template of this folder; `data` is escaped in .html.j2 only, and a name that it lacks is an error."""
    return TEMPLATES.get_template(template).render(data)


def inline_svg(svg: bytes, alt: str) -> Markup:
    """Return an SVG drawing in the colours of the page, with `alt` as its description for screen readers."""
    text = svg.decode("utf-8")
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", text[text.index("<svg") :], flags=re.DOTALL)
    prefix = sha256_text(text)[:8]  # ids belong to the whole page: those of two drawings must differ
    used = set(re.findall(r'(?:href="|url\()#([^")]*)', text))
    text = re.sub(r' id="([^"]*)"', lambda match: f' id="{prefix}-{match[1]}"' if match[1] in used else "", text)
    text = re.sub(r'(href="|url\()#', rf"\g<1>#{prefix}-", text)
    for name, (light, _) in (SERIES | PAGE).items():
        text = text.replace(light, f"var(--{name})")
    tag, rest = text.split(">", 1)
    tag = re.sub(r' (?:width|height)="[^"]*"', "", tag)
    return Markup(f'{tag} role="img" aria-label="{escape(alt)}">{rest.strip()}')


def list_headings(html: str) -> list[tuple[str, Markup]]:
    """Return id and text of each h2 of a page."""
    return [(id, Markup(text)) for id, text in re.findall(r'<h2 id="([^"]*)">(.*?)</h2>', html)]


def breakable(name: str) -> Markup:
    """Return the name of a run, which a narrow column may break after its signs only."""
    return Markup("<wbr>").join(re.split("(?<=[_~+@#=])", name))


TEMPLATES.filters.update(
    breakable=breakable, headings=list_headings, inline_svg=inline_svg, inline_thumbnail=inline_thumbnail
)
