"""The 17 tasks of Guru's evaluation, from the files that its published figures were made with.

The files hold each item with the words of its prompt, so that a score compares with the published one; what those
words are is in the data, pinned at the first pull. k is explicit, because the sources disagree on it: here it is
what the published table says, and 1 where it says nothing.
"""

from __future__ import annotations

from typing import Any

from reasonkit.recipe import SourceConfig
from reasonkit.tasks import Task

MODELS = ("Guru-7B", "GenReas-7B", "ORZ-7B", "SimpleRL-7B", "Guru-32B", "ORZ-32B", "SimpleRL-32B")


def _task(name: str, about: str, stems: str, scores: tuple[float, ...], **fields: Any) -> Task:
    sources = tuple(SourceConfig(name=f"guru-offline:{stem}") for stem in stems.split())
    reference = dict(zip(MODELS, scores, strict=True))
    return Task(name=name, about=about, source=sources, reference=reference, **fields)


AIME24 = _task(
    "aime24",
    "AIME 2024: 30 problems with whole-number answers",
    "math__aime_repeated_8x",
    (17.50, 17.08, 16.25, 15.60, 34.89, 47.50, 27.20),
    verifier="math",
    k=32,
)
