"""Learners for tests, from a model and the fields of LearnerSettings."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from reasonkit.train.learner import LocalLearner
from reasonkit.train.mesh import Mesh
from reasonkit.train.rank import LearnerSettings, Rank


def local_learner(
    model: PreTrainedModel,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    mesh: Mesh | None = None,
    **settings: Any,
) -> LocalLearner:
    return LocalLearner(Rank(model, LearnerSettings(**settings), tokenizer=tokenizer, mesh=mesh))
