"""Early stop: a run whose metrics stay beyond a bound for some steps has collapsed, and only costs money.

Opt-in by `train.stop_on: {entropy_below: 0.02, truncated_above: 0.9, repetition_above: 0.5}`. The name before the
last underscore is a metric of metrics.jsonl. The count is a function of the metrics alone, so resuming repeats it.
A step that had nothing to learn from measures no entropy and no ratio: it leaves their counts as they are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from reasonkit.errors import ConfigError, ReasonkitError, nearest

PATIENCE = 5
"""Steps in a row."""
SIDES = ("below", "above")


class Collapsed(ReasonkitError):
    """A metric was beyond its bound for PATIENCE steps."""


class Watch:
    def __init__(self, bounds: Mapping[str, float]) -> None:
        for name in bounds:
            metric, _, side = name.rpartition("_")
            if side not in SIDES or not metric:
                raise ConfigError(
                    f"train.stop_on has '{name}', which is not of the form METRIC_below or METRIC_above",
                    "for example --set train.stop_on.entropy_below=0.02",
                )
        self._bounds = dict(bounds)
        self._beyond: Counter[str] = Counter()

    def look(self, row: Mapping[str, Any]) -> None:
        """Count a finished step; raises when it is the last that one is ready to see."""
        self.count(row)
        for name, bound in self._bounds.items():
            if self._beyond[name] == PATIENCE:
                metric, _, side = name.rpartition("_")
                raise Collapsed(
                    f"stopped after step {row['step']}: {metric} was {side} {bound:g} for {PATIENCE} steps "
                    f"(now {row[metric]:.4g}); a checkpoint was saved",
                    "look at the rollouts of these steps; --resume goes on all the same",
                )

    def count(self, row: Mapping[str, Any]) -> None:
        for name, bound in self._bounds.items():
            metric, _, side = name.rpartition("_")
            if metric not in row:
                if not row.get("samples_trained"):
                    continue
                raise ConfigError(
                    f"train.stop_on watches '{metric}', which step {row['step']} did not measure",
                    nearest(metric, [key for key, value in row.items() if isinstance(value, float)]),
                )
            value = row[metric]
            within = value is not None and (value >= bound if side == "below" else value <= bound)
            self._beyond[name] = (
                0 if within else self._beyond[name] + 1
            )  # not a number is no good sign either
