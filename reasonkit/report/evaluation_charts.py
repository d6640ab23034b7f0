"""Scores of evaluations as image files: bars with intervals, and the table of models and tasks as colours."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path

from reasonkit.report.charts import COLOURS, INK, STYLE, save
from reasonkit.report.evaluation import Bars, Source, models_of, summary_of, tasks_of

WIDTH = 8.0
BAR, GAP = 0.26, 0.16
"""Inches a bar, and between two rows."""


def save_bars(bars: Bars, models: Sequence[str], folder: Path) -> list[Path]:
    """One PNG and one SVG."""
    name = re.sub(r"[^\w.-]+", "-", bars.key)
    return [draw_bars(bars, models, "", folder / f"{name}.{suffix}") for suffix in ("png", "svg")]


def draw_bars(bars: Bars, models: Sequence[str], title: str, path: Path) -> Path:
    """Horizontal bars, a colour a model, with their 95 % intervals."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch
    from matplotlib.ticker import PercentFormatter

    with rc_context({**STYLE, "axes.grid.axis": "x"}):
        height = sum(len(marks) * BAR + GAP for _, marks in bars.rows) + 1.1
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        axes = figure.add_subplot()
        place, middles = 0.0, []
        for _, marks in bars.rows:
            top = place
            for mark in marks:
                score, colour = mark.score, COLOURS[mark.model % len(COLOURS)]
                axes.barh(place + BAR / 2, score.mean, height=BAR * 0.82, color=colour)
                axes.plot([score.low, score.high], [place + BAR / 2] * 2, color=INK, linewidth=1.1)
                place += BAR
            middles.append((top + place) / 2)
            place += GAP
        axes.set_ylim(place - GAP / 2, -GAP / 2)
        axes.set_yticks(middles, [label for label, _ in bars.rows])
        axes.set_xlim(0, 1)
        axes.xaxis.set_major_formatter(PercentFormatter(1.0))
        axes.set_title(title or bars.title)
        shown = sorted({mark.model for _, marks in bars.rows for mark in marks})
        if len(shown) > 1:
            handles = [Patch(color=COLOURS[each % len(COLOURS)]) for each in shown]
            figure.legend(
                handles,
                [models[each] for each in shown],
                loc="outside lower left",
                ncols=len(shown),
                fontsize=9,
            )
    return save(figure, path)


def save_summary(sources: Sequence[Source], folder: Path) -> list[Path]:
    """Models against tasks, each score as a number on its colour; nothing where there is one of each."""
    if len(models_of(sources)) * len(tasks_of(sources)) < 2:
        return []
    return [_draw_summary(sources, folder / f"summary.{suffix}") for suffix in ("png", "svg")]


def _draw_summary(sources: Sequence[Source], path: Path) -> Path:
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    summary, columns = summary_of(sources), tasks_of(sources)
    if len(columns) > 1:
        columns = [*columns, "mean"]
    with rc_context({**STYLE, "axes.grid": False}):
        figure = Figure(figsize=(2.4 + 0.62 * len(columns), 1.7 + 0.42 * len(summary)), layout="constrained")
        axes = figure.add_subplot()
        values = [
            [float("nan") if each is None else each for each in row[: len(columns)]]
            for row in summary.values()
        ]
        axes.imshow(values, cmap="Blues", vmin=0.0, vmax=1.0, aspect="auto")
        for y, row in enumerate(values):
            for x, value in enumerate(row):
                if not math.isnan(value):  # where a model was asked
                    axes.text(x, y, f"{100 * value:.1f}", ha="center", va="center", fontsize=9,
                              color="white" if value > 0.6 else INK)  # fmt: skip
        axes.set_xticks(range(len(columns)), columns, rotation=40, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(len(summary)), list(summary))
        axes.set_title("Scores in percent")
    return save(figure, path)
