"""Pictures, and pages for a browser. Each page is one HTML file that needs nothing else.

Altair makes the charts. They are drawn as SVG when the page is written, so a page contains no
charting script (Vega's takes 0.9 MB, plotly.js takes 4.8 MB). It loads at once and prints sharply.
Each mark has a label for screen readers. The only script is `page.js`, of about a hundred lines.
"""

from ._charts import (
    Charts,
    expect_drawing,
    front,
    heads,
    losses,
    metrics,
    save,
    sequence,
    steps,
    under_each_other,
)
from ._page import Page, facts

__all__ = [
    "Charts",
    "Page",
    "expect_drawing",
    "facts",
    "front",
    "heads",
    "losses",
    "metrics",
    "save",
    "sequence",
    "steps",
    "under_each_other",
]
