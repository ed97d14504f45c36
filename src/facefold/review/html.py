"""The few pieces of HTML a report is made of: a page, a table, a figure. No script, no network, no template language."""

import base64
from collections.abc import Sequence
from html import escape

_STYLE = """
:root { color-scheme: light dark;
        --ink: #1a1a1a; --paper: #ffffff; --line: #d5d5d5; --soft: #f3f4f6; --lead: #e6f1fb; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8e8e8; --paper: #16181c; --line: #3a3f47;
          --soft: #20242a; --lead: #12304d; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 68rem; padding: 1rem; color: var(--ink); background: var(--paper);
       font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.25rem; line-height: 1.35; margin: 0 0 1rem; padding: .8rem 1rem;
     background: var(--lead); border-radius: .5rem; }
h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; text-align: left; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { background: var(--soft); }
td.number, th.number { text-align: right; }
td:last-child:not(.number) { white-space: normal; overflow-wrap: anywhere;
                                 min-width: 14rem; }
tr.picked td { font-weight: 600; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); gap: 1rem; margin-top: 1rem; }
figure { margin: 0; padding: .5rem; background: #ffffff; color: #1a1a1a; border: 1px solid var(--line); border-radius: .5rem; }
figure img { display: block; width: 100%; max-width: 34rem; height: auto; margin: 0 auto; }
figcaption { font-size: .85rem; padding: .3rem .4rem 0; }
.card { display: flex; flex-wrap: wrap; gap: .5rem; align-items: flex-end; padding: .6rem 0; border-bottom: 1px solid var(--line); }
.card p { flex: 1 0 16rem; margin: 0; align-self: center; }
.card figure { width: 5.5rem; padding: .25rem; }
.card figure:first-child { width: 9rem; }
pre { padding: .6rem; background: var(--soft); overflow-x: auto; font-size: .85rem; border-radius: .4rem; }
@media print { body { max-width: none; } figure, table { break-inside: avoid; } }
"""


def page(title: str, sections: Sequence[str]) -> str:
    """A whole document; `title` is text, `sections` are HTML."""
    body = "\n".join(sections)
    return (f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<link rel="icon" href="data:,">\n'
            f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n")


def heading(text: str, level: int = 2) -> str:
    return f"<h{level}>{escape(text)}</h{level}>"


def paragraph(text: str) -> str:
    return f"<p>{escape(text)}</p>"


def code(text: str) -> str:
    return f"<pre>{escape(text)}</pre>"


def table(header: Sequence[str], rows: Sequence[Sequence[object]], numbers: Sequence[int] = (), picked: int | None = None) -> str:
    """A table of texts; the columns `numbers` are set flush right, the row `picked` is set in bold."""
    def cells(tag: str, values: Sequence[object]) -> str:
        kinds = [' class="number"' if i in numbers else "" for i in range(len(values))]
        return "".join(f"<{tag}{kind}>{escape(str(value))}</{tag}>" for kind, value in zip(kinds, values, strict=True))

    lines = [f"<tr{' class=picked' if i == picked else ''}>{cells('td', row)}</tr>" for i, row in enumerate(rows)]
    return (f'<div class="scroll"><table>\n<thead><tr>{cells("th", header)}</tr></thead>\n<tbody>\n' + "\n".join(lines)
            + "\n</tbody></table></div>")


def figure(svg: bytes, alt: str, caption: str) -> str:
    """An SVG drawing inlined as an image; `alt` says in words what it shows."""
    source = base64.b64encode(svg).decode("ascii")
    return (f'<figure><img alt="{escape(alt)}" src="data:image/svg+xml;base64,{source}">'
            f"<figcaption>{escape(caption)}</figcaption></figure>")


def photo(jpeg: bytes, alt: str, caption: str) -> str:
    """A JPEG inlined as an image; `alt` says in words what it is."""
    source = base64.b64encode(jpeg).decode("ascii")
    return (f'<figure><img alt="{escape(alt)}" src="data:image/jpeg;base64,{source}">'
            f"<figcaption>{escape(caption)}</figcaption></figure>")


def card(photos: Sequence[str], text: str) -> str:
    """The first photo, large, a text on it, and the other photos beside it, small."""
    return f'<div class="card">{photos[0]}{paragraph(text)}{"".join(photos[1:])}</div>'


def figures(parts: Sequence[str]) -> str:
    return '<div class="figures">\n' + "\n".join(parts) + "\n</div>"
