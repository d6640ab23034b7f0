"""Writing a report: the page, the image files beside it, or one picture alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from reasonkit.report.charts import save_charts, save_picture
from reasonkit.report.evaluation import bars_of, length_chart, models_of, read_evaluations
from reasonkit.report.evaluation_charts import draw_bars, save_bars, save_summary
from reasonkit.report.evaluation_page import pack_replies, render_evaluation
from reasonkit.report.page import render
from reasonkit.report.read import read_runs
from reasonkit.report.rollouts import pack_runs
from reasonkit.report.series import charts_of
from reasonkit.rundir import write_text

MOST_PAGE = 5_000_000
"""Bytes of a page, at most."""
ROOM_FOR_SAMPLES = 3_800_000
"""Of these, the room for rollouts; curves, recipe and the page itself take a few hundred kilobytes."""


@dataclass(frozen=True, slots=True)
class Written:
    page: Path
    charts: Sequence[Path]
    """PNG and SVG files, in `charts/` beside the page."""
    shown: int
    """Rollouts that can be opened in the page."""
    total: int


def write_report(
    runs: Sequence[Path],
    output: Path,
    *,
    title: str = "",
    rename: Mapping[str, str] | None = None,
    images: bool = True,
) -> Written:
    """Write the page about `runs` to `output`, and its charts as images into `charts/` beside it.

    The dozens of images take seconds, which who only wants to look at the page need not wait for.
    """
    read = read_runs(runs, rename or {})
    charts = charts_of(read)
    samples = pack_runs(read, ROOM_FOR_SAMPLES)
    heading = title or " and ".join(run.label for run in read)
    write_text(output, render(heading, read, charts, samples))
    labels = [run.label for run in read]
    saved = save_charts(charts, labels, output.parent / "charts") if images else []
    return Written(output, saved, samples.shown, samples.total)


def write_picture(
    runs: Sequence[Path], output: Path, *, title: str = "", rename: Mapping[str, str] | None = None
) -> None:
    """Write the curves of reward and accuracy as one image; `output` ends in .svg or .png."""
    read = read_runs(runs, rename or {})
    save_picture(charts_of(read), [run.label for run in read], title, output)


def write_evaluation_report(
    inputs: Sequence[Path], output: Path, *, title: str = "", rename: Mapping[str, str] | None = None
) -> Written:
    """Write the page about evaluations (folders or results files), and its charts as images beside it."""
    sources = read_evaluations(inputs, rename or {})
    models, bars = models_of(sources), bars_of(sources)
    curves = [chart for chart in [length_chart(sources)] if chart is not None]
    replies = pack_replies(sources, ROOM_FOR_SAMPLES)
    heading = title or " and ".join(models)
    write_text(output, render_evaluation(heading, sources, bars, curves, replies))
    folder = output.parent / "charts"
    images = [path for each in bars for path in save_bars(each, models, folder)]
    images += save_summary(sources, folder)
    images += save_charts(curves, models, folder)
    return Written(output, images, replies.shown, replies.total)


def write_evaluation_picture(
    inputs: Sequence[Path], output: Path, *, title: str = "", rename: Mapping[str, str] | None = None
) -> None:
    """Write the scores by task as one image; `output` ends in .svg or .png."""
    sources = read_evaluations(inputs, rename or {})
    draw_bars(bars_of(sources)[0], models_of(sources), title, output)
