"""The few pieces of HTML a report is made of: a page, a table, a figure. No script, no network, no template language."""

import base64
import re
from collections.abc import Sequence
from html import escape

from facefold.report import palette
from facefold.utils.files import sha256_text

_STYLE = (
    f"""
:root {{ color-scheme: light dark; {palette.variables(0)} }}
@media screen and (prefers-color-scheme: dark) {{ :root {{ {palette.variables(1)} }} }}
"""
    + """
* { box-sizing: border-box; }
html { scroll-behavior: smooth; -webkit-text-size-adjust: 100%; }
body { margin: 0 auto; max-width: 70rem; padding: 1rem; color: var(--ink); background: var(--paper);
       font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; overflow-wrap: break-word; }
p { max-width: 46rem; margin: .5rem 0; }
a { color: var(--c0); }
h1 { font-size: 1.3rem; line-height: 1.4; margin: 0 0 1rem; padding: 1rem 1.1rem;
     background: var(--lead); border-left: .35rem solid var(--c0); border-radius: .4rem; }
h2 { font-size: 1.25rem; line-height: 1.3; margin: 2.75rem 0 .5rem; padding-top: .9rem; border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.5rem 0 .4rem; }
.figures h3, .figures .scroll { margin-top: 0; }
nav { display: flex; flex-wrap: wrap; gap: .3rem .9rem; margin: 1rem 0; font-size: .9rem; }
dl.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: .6rem; margin: 1rem 0; }
dl.tiles div { padding: .6rem .8rem; background: var(--soft); border-radius: .4rem; }
dl.tiles dt { font-size: .8rem; color: var(--faint); }
dl.tiles dd { margin: 0; font-size: 1.3rem; font-weight: 600; font-variant-numeric: tabular-nums; }
dl.tiles dd small { display: block; font-size: .8rem; font-weight: 400; color: var(--faint); }
.scroll { overflow-x: auto; margin: .75rem 0; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; text-align: left; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { background: var(--soft); vertical-align: bottom; font-weight: 600; }
td.number, th.number { text-align: right; }
td:last-child:not(.number) { white-space: normal; overflow-wrap: anywhere; min-width: min(26rem, 80vw); }
th:first-child, td:first-child { position: sticky; left: 0; background: var(--paper); }
th:first-child { background: var(--soft); }
tr.picked td:first-child { background: var(--lead); }
tr.picked td { font-weight: 600; background: var(--lead); }
.figures { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 24rem), 1fr)); gap: 1rem; margin: 1rem 0;
           align-items: start; }
figure { margin: 0; }
figure.plot { padding: .75rem; border: 1px solid var(--line); border-radius: .4rem; }
figure.plot svg { display: block; width: 100%; max-width: 31rem; height: auto; margin: 0 auto; }
figure.plot svg * { stroke-linejoin: round; stroke-linecap: butt; }
figcaption { font-size: .85rem; line-height: 1.4; color: var(--faint); padding-top: .4rem; }
.photos { display: grid; grid-template-columns: repeat(auto-fill, minmax(6.2rem, 1fr)); gap: .8rem .6rem; margin: .75rem 0; }
figure.photo img { display: block; width: 100%; max-width: 9rem; aspect-ratio: 1; height: auto; border-radius: .25rem; }
figure.photo figcaption { font-size: .75rem; line-height: 1.3; padding-top: .2rem; white-space: pre-line; }
.sets { display: flex; flex-wrap: wrap; gap: .8rem; margin: .75rem 0; }
.sets .photos { display: flex; flex-wrap: wrap; gap: .5rem; margin: 0; padding: .5rem; border: 1px solid var(--line);
                border-radius: .4rem; }
.sets figure.photo { width: 6rem; }
.card { display: flex; flex-wrap: wrap; gap: .5rem; align-items: flex-end; padding: .6rem 0;
        border-bottom: 1px solid var(--line); }
.card p { flex: 1 0 16rem; margin: 0; align-self: center; }
.card figure { width: 5.5rem; }
.card figure:first-child { width: 9rem; }
pre { padding: .7rem .8rem; background: var(--soft); overflow-x: auto; font-size: .8rem; line-height: 1.45;
      border-radius: .4rem; }
@media (max-width: 30rem) {
  body { padding: .75rem; } h1 { font-size: 1.1rem; } th, td { padding: .3rem .5rem; }
  .photos { grid-template-columns: repeat(auto-fill, minmax(5rem, 1fr)); } .sets { gap: .6rem; }
  .sets figure.photo { width: 4.7rem; }
}
@media print {
  body { max-width: none; padding: 0; font-size: 10pt; }
  nav { display: none; }
  h2, h3 { break-after: avoid; }
  figure, tr, .card, dl.tiles { break-inside: avoid; }
  .scroll { overflow: visible; } table { font-size: 6.5pt; } th, td { padding: .15rem .25rem; white-space: normal; }
  td:last-child:not(.number) { min-width: 0; } th:first-child, td:first-child { position: static; }
  pre { white-space: pre-wrap; overflow-wrap: anywhere; }
  .figures { grid-template-columns: 1fr 1fr; }
}
"""
)


def page(title: str, sections: Sequence[str]) -> str:
    """A whole document; `title` is text, `sections` are HTML."""
    body = "\n".join(sections)
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<link rel="icon" href="data:,">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def heading(text: str, level: int = 2) -> str:
    """A heading; one of the second level can be jumped to (`contents`)."""
    anchor = f' id="{_anchor(text)}"' if level == 2 else ""
    return f"<h{level}{anchor}>{escape(text)}</h{level}>"


def contents(parts: Sequence[str]) -> str:
    """Links to the second-level headings among `parts`."""
    found = re.findall(r'<h2 id="([^"]*)">(.*?)</h2>', "\n".join(parts))
    return "<nav>" + "".join(f'<a href="#{anchor}">{text}</a>' for anchor, text in found) + "</nav>"


def paragraph(text: str) -> str:
    return f"<p>{escape(text)}</p>"


def code(text: str) -> str:
    return f"<pre>{escape(text)}</pre>"


def tiles(facts: Sequence[tuple[str, str, str]]) -> str:
    """The figures to see first, each (what, value, more)."""
    cells = "".join(
        f"<div><dt>{escape(what)}</dt><dd>{escape(value)}<small>{escape(more)}</small></dd></div>"
        for what, value, more in facts
    )
    return f'<dl class="tiles">{cells}</dl>'


def table(
    header: Sequence[str], rows: Sequence[Sequence[object]], numbers: Sequence[int] = (), picked: int | None = None
) -> str:
    """A table of texts; the columns `numbers` are set flush right, the row `picked` is set in bold."""

    def cells(tag: str, values: Sequence[object]) -> str:
        kinds = [' class="number"' if i in numbers else "" for i in range(len(values))]
        return "".join(f"<{tag}{kind}>{escape(str(value))}</{tag}>" for kind, value in zip(kinds, values, strict=True))

    lines = [f"<tr{' class=picked' if i == picked else ''}>{cells('td', row)}</tr>" for i, row in enumerate(rows)]
    return (
        f'<div class="scroll"><table>\n<thead><tr>{cells("th", header)}</tr></thead>\n<tbody>\n'
        + "\n".join(lines)
        + "\n</tbody></table></div>"
    )


def figure(svg: bytes, alt: str, caption: str) -> str:
    """An SVG drawing in the light colours of `palette`, made part of the page and its colours; `alt` says in words what it shows."""
    text = svg.decode("utf-8")
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", text[text.index("<svg") :], flags=re.DOTALL)
    own = sha256_text(text)[:8]  # ids are the document's: those of two drawings must not meet
    used = set(re.findall(r'(?:href="|url\()#([^")]*)', text))
    text = re.sub(r' id="([^"]*)"', lambda found: f' id="{own}-{found[1]}"' if found[1] in used else "", text)
    text = re.sub(r'(href="|url\()#', rf"\g<1>#{own}-", text)
    for name, (light, _) in (palette.SERIES | palette.PAGE).items():
        text = text.replace(light, f"var(--{name})")
    opening, rest = text.split(">", 1)
    opening = re.sub(r' (?:width|height)="[^"]*"', "", opening)
    return (
        f'<figure class="plot">{opening} role="img" aria-label="{escape(alt)}">{rest.strip()}'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def photo(jpeg: bytes, alt: str, caption: str) -> str:
    """A JPEG inlined as an image; `alt` says in words what it is. Line breaks in the caption stay."""
    source = base64.b64encode(jpeg).decode("ascii")
    return (
        f'<figure class="photo"><img alt="{escape(alt)}" src="data:image/jpeg;base64,{source}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def photos(parts: Sequence[str]) -> str:
    """Photos as a grid that fills the width."""
    return '<div class="photos">\n' + "\n".join(parts) + "\n</div>"


def sets(groups: Sequence[Sequence[str]]) -> str:
    """Small groups of photos that belong together, each in a frame."""
    return '<div class="sets">' + "\n".join(photos(group) for group in groups) + "</div>"


def card(photos: Sequence[str], text: str) -> str:
    """The first photo, large, a text on it, and the other photos beside it, small."""
    return f'<div class="card">{photos[0]}{paragraph(text)}{"".join(photos[1:])}</div>'


def columns(parts: Sequence[Sequence[str]]) -> str:
    """Parts side by side where there is room, each a list of HTML."""
    return '<div class="figures">\n' + "\n".join(f"<div>{''.join(part)}</div>" for part in parts) + "\n</div>"


def figures(parts: Sequence[str]) -> str:
    return '<div class="figures">\n' + "\n".join(parts) + "\n</div>"


def _anchor(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
