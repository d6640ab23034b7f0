"""A run folder as plain data for a report. A run that stopped early, or never evaluated, is a run too."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from reasonkit.errors import UsageError, nearest
from reasonkit.evaluate.stats import Difference, item_scores, paired_difference
from reasonkit.rundir import RunDir, read_metrics

DECODINGS = ("sampled", "greedy")


@dataclass(frozen=True, slots=True)
class RunData:
    label: str
    folder: RunDir
    info: Mapping[str, Any]
    """run.json"""
    recipe: str
    """The resolved recipe, as YAML text."""
    metrics: Sequence[Mapping[str, Any]]
    """Rows of metrics.jsonl."""
    validations: Sequence[Mapping[str, Any]]
    """Looks at held-out problems by step; only the first and the last keep their items."""

    @property
    def before(self) -> Mapping[str, Any] | None:
        return next((each for each in self.validations if each["phase"] == "before"), None)

    @property
    def after(self) -> Mapping[str, Any] | None:
        """The last look after `before`: the one after training, or how far a run came that has not ended."""
        later = [each for each in self.validations if each["phase"] != "before"]
        return later[-1] if later else None


def read_run(path: Path) -> RunData:
    folder = RunDir(path)
    info = folder.info()
    metrics = list(read_metrics(folder.metrics)) if folder.metrics.exists() else []
    recipe = folder.recipe.read_text(encoding="utf-8") if folder.recipe.exists() else ""
    return RunData(path.resolve().name, folder, info, recipe, metrics, _read_validations(folder))


def read_runs(paths: Sequence[Path], rename: Mapping[str, str]) -> list[RunData]:
    """The runs, labelled by their folders' names or by what `rename` calls them. Labels are distinct."""
    runs = [read_run(path) for path in paths]
    unknown = [name for name in rename if name not in {run.label for run in runs}]
    if unknown:
        raise UsageError(
            f"--rename: no run is called '{unknown[0]}'", nearest(unknown[0], [run.label for run in runs])
        )
    runs = [replace(run, label=rename.get(run.label, run.label)) for run in runs]
    labels = [run.label for run in runs]
    for label in labels:
        if labels.count(label) > 1:
            raise UsageError(
                f"two runs are called '{label}': {', '.join(map(str, paths))}",
                "tell them apart with --rename",
            )
    return runs


def change(run: RunData, decoding: str) -> Difference | None:
    """After minus before on the problems that both looks share, or None where there is nothing to pair."""
    if run.before is None or run.after is None:
        return None
    before, after = (_scores_by_problem(look, decoding) for look in (run.before, run.after))
    shared = [uid for uid in before if uid in after]
    if not shared:
        return None
    return paired_difference([after[uid] for uid in shared], [before[uid] for uid in shared])


def replies(item: Mapping[str, Any], decoding: str) -> list[Mapping[str, Any]]:
    """An item's replies of one decoding: the samples, or the greedy reply alone."""
    if decoding == "sampled":
        return list(item["samples"])
    return [item["greedy"]] if item.get("greedy") else []


def _scores_by_problem(look: Mapping[str, Any], decoding: str) -> dict[str, float]:
    scored = {
        item["uid"]: [reply["score"] for reply in replies(item, decoding) if reply["score"] is not None]
        for item in look["items"]
    }
    judged = {uid: scores for uid, scores in scored.items() if scores}
    return dict(zip(judged, item_scores(list(judged.values())), strict=True)) if judged else {}


def _read_validations(folder: RunDir) -> list[Mapping[str, Any]]:
    steps = folder.evaluation_steps()
    looks: list[Mapping[str, Any]] = []
    for step in steps:
        look: dict[str, Any] = json.loads(folder.evaluation(step).read_text(encoding="utf-8"))
        if step not in (steps[0], steps[-1]):
            look["items"] = []
        looks.append(look)
    return looks
