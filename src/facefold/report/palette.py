"""Colours of the pages, in light and in dark: searched for series that stand out from the paper and that the colour-blind can
tell apart, whatever the kind (simulated as by Machado, Oliveira and Fernandes, 2009).

A drawing is made in the light colours; `html.figure` turns each into the page's own variable, so that it follows the page into
the dark. Series differ by marker and line as well, for those who see no colours and for paper.
"""

SERIES = {  # variable: (light, dark)
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


def variables(scheme: int) -> str:
    """The css variables of the light (0) or dark (1) scheme."""
    return " ".join(f"--{name}: {pair[scheme]};" for name, pair in (PAGE | SERIES).items())
