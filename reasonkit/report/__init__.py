"""Reports of runs: one HTML page that needs nothing else, and charts as PNG and SVG.

    read.py      a run folder as plain data, tolerant of what a stopped run lacks
    series.py    which curves there are to draw, from what metrics.jsonl holds
    samples.py   which rollouts fit into the page, packed so that they open on demand
    charts.py    the curves as PNG and SVG files, by matplotlib
    page.py      the page; its looks and behaviour are page.html, page.css and page.js beside it

Only reads run folders; nothing here trains, evaluates or decides.
"""

from reasonkit.report.write import Written, write_picture, write_report

__all__ = ["Written", "write_picture", "write_report"]
