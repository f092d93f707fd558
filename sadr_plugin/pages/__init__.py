"""Pictures, and pages to look at: one HTML file each, which needs nothing but a browser.

Charts are Altair's, drawn as SVG when the page is written. So a page holds no charting script
(Vega's is 0.9 MB, plotly.js 4.8 MB), loads at once, is sharp in print, and every mark has a
label for screen readers. What moves on a page, a hundred lines of `page.js` do.
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
