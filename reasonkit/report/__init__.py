"""Reports: one HTML page that needs nothing else, and charts as PNG and SVG.

Of training runs:

    read.py         a run folder as plain data, tolerant of what a stopped run lacks
    series.py       which curves there are to draw, from what metrics.jsonl holds
    rollouts.py     which replies there are to look at
    page.py         the page (training.html, training.js)

Of evaluations:

    evaluation.py         results and what there is to draw of them
    evaluation_charts.py  bars and the summary as image files
    evaluation_page.py    the page (evaluation.html, evaluation.js)

Of both: samples.py packs replies so that they open on demand, charts.py draws curves by matplotlib, draw.js and
browse.js are what a page does in the browser, write.py puts it all on disk.

Only reads folders; nothing here trains, evaluates or decides.
"""

from reasonkit.report.write import (
    Written,
    write_evaluation_picture,
    write_evaluation_report,
    write_picture,
    write_report,
)

__all__ = [
    "Written",
    "write_evaluation_picture",
    "write_evaluation_report",
    "write_picture",
    "write_report",
]
