"""The curves as image files, by matplotlib: PNG for slides, SVG for pages. One look, stated here once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reasonkit.report.series import Chart, Curve, legend
from reasonkit.rundir import atomic_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.transforms import Transform

COLOURS = ("#2563c9", "#c2410c", "#0f8a6d", "#8b46b8", "#a16207", "#be185d", "#0e7490", "#57606a")
"""Each readable on white and on near-black, and apart from its neighbours without colour vision too."""
INK, GRID = "#24292f", "#e4e7eb"

STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so that every machine draws the same image
    "font.size": 10,
    "axes.edgecolor": GRID,
    "axes.labelcolor": INK,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": GRID,
    "text.color": INK,
    "xtick.color": "#57606a",
    "ytick.color": "#57606a",
    "xtick.bottom": False,
    "ytick.left": False,
    "legend.frameon": False,
    "figure.facecolor": "white",
    "svg.fonttype": "path",
    "svg.hashsalt": "reasonkit",
}


def save_charts(charts: Sequence[Chart], labels: Sequence[str], folder: Path) -> list[Path]:
    """One PNG and one SVG a chart."""
    written: list[Path] = []
    for chart in charts:
        figure = figure_of([chart], labels, "", (6.4, 3.6))
        written.append(save(figure, folder / f"{chart.key}.png"))
        figure.set_layout_engine(None)  # it stays as laid out: that took most of the time
        written.append(save(figure, folder / f"{chart.key}.svg"))
    return written


def save_picture(charts: Sequence[Chart], labels: Sequence[str], title: str, path: Path) -> None:
    """Reward and accuracy side by side in one image, in the format that the path's suffix names."""
    wanted = [chart for chart in charts if chart.key in ("reward", "accuracy")]
    save(figure_of(wanted, labels, title, (10.0, 3.9)), path)


def figure_of(
    charts: Sequence[Chart], labels: Sequence[str], title: str, size: tuple[float, float]
) -> Figure:
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        figure = Figure(figsize=size, layout="constrained")
        for number, chart in enumerate(charts, start=1):
            _draw(figure, figure.add_subplot(1, len(charts), number), chart, labels)
        if title:
            figure.suptitle(title, x=0.01, ha="left", fontsize=13, fontweight="bold")
    return figure


def _draw(figure: Figure, axes: Axes, chart: Chart, labels: Sequence[str]) -> None:
    from matplotlib.ticker import MaxNLocator, PercentFormatter
    from matplotlib.transforms import ScaledTranslation

    marked = [curve for curve in chart.curves if curve.intervals]  # drawn side by side, not on each other
    for curve, colour, dash in zip(chart.curves, colours(chart, labels), dashes(chart, labels), strict=True):
        if curve.intervals:
            inches = 0.06 * (marked.index(curve) - (len(marked) - 1) / 2)
            aside = ScaledTranslation(inches, 0.0, figure.dpi_scale_trans)
            _draw_marks(axes, curve, colour, legend(chart, curve, labels), axes.transData + aside)
        else:
            _draw_line(axes, curve, colour, dash, legend(chart, curve, labels))
    axes.set_title(chart.title)
    axes.set_xlabel(chart.along)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    axes.margins(x=0.02)
    if chart.unit == "percent":
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        axes.set_ylim(bottom=0.0)
    if len(chart.curves) > 1:
        axes.legend(loc="best", fontsize=9)


def _draw_marks(axes: Axes, curve: Curve, colour: str, label: str, place: Transform) -> None:
    """Points with their intervals."""
    steps, values = zip(*curve.points, strict=True)
    axes.update_datalim(
        [(step, end) for step, ends in zip(steps, curve.intervals, strict=True) for end in ends]
    )
    reach = [
        [max(0.0, value - low) for value, (low, _) in zip(values, curve.intervals, strict=True)],
        [max(0.0, high - value) for value, (_, high) in zip(values, curve.intervals, strict=True)],
    ]
    axes.errorbar(
        steps, values, yerr=reach, label=label, color=colour, fmt="o", markersize=4.5, elinewidth=1.4, zorder=3,
        transform=place, clip_on=False,
    )  # fmt: skip


def _draw_line(axes: Axes, curve: Curve, colour: str, dash: str, label: str) -> None:
    steps, values = zip(*curve.points, strict=True)
    if curve.average:
        axes.plot(steps, values, color=colour, linewidth=0.9, alpha=0.3)
        steps, values = zip(*curve.average, strict=True)
    marker = "o" if len(values) == 1 else ""
    axes.plot(steps, values, label=label, color=colour, linewidth=1.8, linestyle=dash, marker=marker)


def colours(chart: Chart, labels: Sequence[str]) -> list[str]:
    """A colour a curve in the report of one run, a colour a run in that of several."""
    numbers = range(len(chart.curves)) if len(labels) == 1 else [curve.run for curve in chart.curves]
    return [COLOURS[number % len(COLOURS)] for number in numbers]


def dashes(chart: Chart, labels: Sequence[str]) -> list[str]:
    """Lines of one run are told apart by their dashes where colour tells the runs apart."""
    if len(labels) == 1:
        return ["-"] * len(chart.curves)
    metrics = list(dict.fromkeys(curve.label for curve in chart.curves))
    styles = ("-", "--", ":", "-.")
    return [styles[metrics.index(curve.label) % len(styles)] for curve in chart.curves]


def save(figure: Figure, path: Path) -> Path:
    from matplotlib import rc_context

    suffix = path.suffix.removeprefix(".")
    with rc_context(STYLE), atomic_file(path) as temporary:
        # Without a date the same run gives the same bytes.
        metadata = {"Date": None} if suffix == "svg" else {}
        figure.savefig(temporary, format=suffix, dpi=160, metadata=metadata)
    return path
