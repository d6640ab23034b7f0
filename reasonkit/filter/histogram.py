"""How pass rates are spread: counts by bin, as rows for a terminal and as a picture."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from reasonkit.filter.choose import BINS, bin_of
from reasonkit.filter.rates import Rates
from reasonkit.report.charts import COLOURS, STYLE
from reasonkit.rundir import atomic_file

BAR = 40
"""Characters of the longest bar."""


def counts(rates: Rates) -> dict[str, list[int]]:
    """Of each model, how many records fall into each of BINS. Records without a verdict are in none."""
    found = {}
    for label, of in rates.items():
        bins = Counter(bin_of(rate.value) for rate in of.values() if rate.judged)
        found[label] = [bins[place] for place in range(len(BINS))]
    return found


def rows(spread: Mapping[str, Sequence[int]]) -> list[tuple[str, str, str, str]]:
    """(model, bin, records, bar) for a terminal."""
    longest = max(max(each) for each in spread.values()) or 1
    return [
        (label, name, str(count), "█" * round(BAR * count / longest))
        for label, of in spread.items()
        for name, count in zip(BINS, of, strict=True)
    ]


def save_pictures(spread: Mapping[str, Sequence[int]], folder: Path) -> list[Path]:
    """histogram.png and histogram.svg: a group of bars a bin, a colour a model."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    paths = [folder / f"histogram.{suffix}" for suffix in ("png", "svg")]
    with rc_context(STYLE):
        figure = Figure(figsize=(7.2, 3.6), layout="constrained")
        axes = figure.add_subplot()
        width = 0.8 / len(spread)
        for number, (label, of) in enumerate(spread.items()):
            places = [place - 0.4 + width * (number + 0.5) for place in range(len(BINS))]
            axes.bar(places, of, width * 0.92, label=label, color=COLOURS[number % len(COLOURS)])
        axes.set_title("Records by pass rate")
        axes.set_xticks(range(len(BINS)), BINS)
        axes.set_ylabel("records")
        if len(spread) > 1:
            axes.legend(fontsize=9)
        for path in paths:
            with atomic_file(path) as temporary:
                kind = path.suffix.removeprefix(".")
                # Without a date the same rates give the same bytes.
                figure.savefig(
                    temporary, format=kind, dpi=160, metadata={"Date": None} if kind == "svg" else {}
                )
    return paths
