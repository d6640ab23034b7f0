"""Writing a report: the page, the image files beside it, or one picture alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from reasonkit.report.charts import save_charts, save_picture
from reasonkit.report.page import render
from reasonkit.report.read import read_runs
from reasonkit.report.samples import pack
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
    runs: Sequence[Path], output: Path, *, title: str = "", rename: Mapping[str, str] | None = None
) -> Written:
    """Write the page about `runs` to `output`, and its charts as images into `charts/` beside it."""
    read = read_runs(runs, rename or {})
    charts = charts_of(read)
    samples = pack(read, ROOM_FOR_SAMPLES)
    heading = title or " and ".join(run.label for run in read)
    write_text(output, render(heading, read, charts, samples))
    images = save_charts(charts, read, output.parent / "charts")
    return Written(output, images, samples.shown, samples.total)


def write_picture(
    runs: Sequence[Path], output: Path, *, title: str = "", rename: Mapping[str, str] | None = None
) -> None:
    """Write the curves of reward and accuracy as one image; `output` ends in .svg or .png."""
    read = read_runs(runs, rename or {})
    save_picture(charts_of(read), read, title, output)
