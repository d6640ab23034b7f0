"""The page about training runs: one HTML file with everything in it, readable from a mail attachment or a disk.

Tables, recipe and environment are plain HTML. Curves and replies are data that draw.js and browse.js draw: curves
at once, replies when they are looked at. Nothing is fetched, and no text of a model is ever interpreted as HTML.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from reasonkit import __version__
from reasonkit.report.charts import COLOURS, colours, dashes
from reasonkit.report.read import DECODINGS, RunData, change, replies
from reasonkit.report.rollouts import PLACES
from reasonkit.report.samples import OF_GROUP, OF_ROLLOUT, Packed
from reasonkit.report.series import Chart, Curve, Point, legend

HERE = Path(__file__).parent
DASH_ARRAYS = {"-": "", "--": "6 4", ":": "2 3", "-.": "8 3 2 3"}
NOT_LISTED = frozenset(
    {
        "recipe",
        "before",
        "after",
        "best",
        "packages",
        "datasets",
        "state",
        "step",
        "steps",
        "seconds",
        "pid",
        "host",
    }
)
"""Keys of run.json that the page shows in their own place, or that concern nobody else."""

Row = Mapping[str, Any]


def render(title: str, runs: Sequence[RunData], charts: Sequence[Chart], samples: Packed) -> str:
    """The page as text."""
    labels = [run.label for run in runs]
    return fill(
        "training",
        {
            "charts": [chart_data(chart, labels) for chart in charts],
            "runs": labels,
            "places": PLACES,
            "ofGroup": OF_GROUP,
            "ofRollout": OF_ROLLOUT,
        },
        title=title,
        runs=runs,
        several=len(runs) > 1,
        filters=[("run", "run", len(runs) == 1), ("place", "from", False), ("step", "step", False)],
        colours=[COLOURS[index % len(COLOURS)] for index in range(len(runs))],
        summaries=[_summary(run) for run in runs],
        results=[row for run in runs for row in _results(run)],
        example=_example(runs[0]) if len(runs) == 1 else None,
        charts=[(chart, in_words(chart, labels)) for chart in charts],
        environments=[list(_environment(run)) for run in runs],
        samples=samples,
    )


def fill(kind: str, script: Mapping[str, Any], **content: Any) -> str:
    """The template `kind` with its content, and with `script` as the data that its scripts draw."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    behaviour = "\n".join(
        (HERE / f"{name}.js").read_text(encoding="utf-8") for name in ("draw", "browse", kind)
    )
    return environment.get_template(f"{kind}.html").render(
        **content,
        data=Markup(_script_json(script)),
        style=Markup((HERE / "page.css").read_text(encoding="utf-8")),
        behaviour=Markup(behaviour),
        version=__version__,
    )


def _summary(run: RunData) -> str:
    """One line about how a run went."""
    done = max((row["step"] for row in run.metrics), default=0)
    facts = [
        str(run.info["state"]),
        f"step {done:,} of {run.info['steps']:,}" if run.info.get("steps") else f"step {done:,}",
    ]
    if run.info.get("seconds"):
        facts.append(duration(run.info["seconds"]))
    return ", ".join(facts)


def _results(run: RunData) -> Iterator[dict[str, str]]:
    """Rows of the before-and-after table."""
    for decoding in DECODINGS:
        looks = [look[decoding] if look and look.get(decoding) else None for look in (run.before, run.after)]
        if not any(looks):
            continue
        size = next(look for look in reversed(looks) if look)
        difference = change(run, decoding)
        yield {
            "run": run.label,
            "decoding": f"{decoding}, {size['k']} a problem" if size["k"] > 1 else decoding,
            "before": percent(looks[0]["accuracy"]) if looks[0] else "–",
            "before_interval": interval(looks[0]) if looks[0] else "",
            "after": percent(looks[1]["accuracy"]) if looks[1] else "–",
            "after_interval": interval(looks[1]) if looks[1] else "",
            "change": f"{100 * difference.mean:+.1f} points" if difference else "–",
            "change_interval": f"{100 * difference.low:+.1f} to {100 * difference.high:+.1f}"
            if difference
            else "",
            "test": _test(difference.p) if difference else "",
            "problems": f"{size['n']:,}",
        }


def _test(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def _example(run: RunData) -> dict[str, str] | None:
    """A held-out problem that the run learned to solve: wrong before, right after; else any that has both."""
    if run.before is None or run.after is None:
        return None
    later = {item["uid"]: item for item in run.after["items"]}
    pairs = [(item, later[item["uid"]]) for item in run.before["items"] if item["uid"] in later]
    shown = [
        (first, replies(first, "greedy")[0], replies(last, "greedy")[0])
        for first, last in pairs
        if replies(first, "greedy") and replies(last, "greedy")
    ]
    if not shown:
        return None
    learned = [each for each in shown if each[1]["status"] != "correct" and each[2]["status"] == "correct"]
    item, before, after = (learned or shown)[0]
    return {
        "prompt": item["prompt"],
        "before": before["text"],
        "before_status": before["status"],
        "after": after["text"],
        "after_status": after["status"],
    }


def chart_data(chart: Chart, labels: Sequence[str]) -> dict[str, Any]:
    """A chart as draw.js draws it."""
    styles = zip(chart.curves, colours(chart, labels), dashes(chart, labels), strict=True)
    return {
        "key": chart.key,
        "along": chart.along,
        "percent": chart.unit == "percent",
        "curves": [
            {
                "label": legend(chart, curve, labels),
                "colour": colour,
                "dash": DASH_ARRAYS[dash],
                "points": _points(curve.points),
                "average": _points(curve.average),
                "intervals": [[_short(low), _short(high)] for low, high in curve.intervals],
            }
            for curve, colour, dash in styles
        ],
    }


def in_words(chart: Chart, labels: Sequence[str]) -> str:
    """What a chart shows, for those who do not see it."""
    return "; ".join(_curve_in_words(chart, curve, legend(chart, curve, labels)) for curve in chart.curves)


def _curve_in_words(chart: Chart, curve: Curve, name: str) -> str:
    def show(value: float) -> str:
        return percent(value) if chart.unit == "percent" else f"{value:.4g}"

    (first, start), (last, end) = curve.points[0], curve.points[-1]
    if len(curve.points) == 1:
        return f"{name}: {show(start)} at {chart.along} {first:.0f}"
    return f"{name}: from {show(start)} at {chart.along} {first:.0f} to {show(end)} at {last:.0f}"


def _environment(run: RunData) -> Iterator[tuple[str, str]]:
    for key, value in run.info.items():
        if key not in NOT_LISTED and value not in (None, "", [], {}):
            yield key, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    packages = run.info.get("packages") or {}
    if packages:
        yield "packages", ", ".join(f"{name} {version}" for name, version in packages.items())
    for name, digest in (run.info.get("datasets") or {}).items():
        yield Path(name).name, str(digest)


def percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def interval(result: Row) -> str:
    return f"{100 * result['low']:.1f} to {100 * result['high']:.1f}"


def duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _points(points: Sequence[Point]) -> list[list[float]]:
    return [[_short(step), _short(value)] for step, value in points]


def _short(value: float) -> float:
    rounded = float(f"{value:.6g}")
    return int(rounded) if rounded.is_integer() and abs(rounded) < 1e15 else rounded


def _script_json(value: Any) -> str:
    """JSON that cannot end the script element that it stands in."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
