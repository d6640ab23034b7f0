"""Every name that a recipe gives, looked up with its options before anything is made or fetched.

The dry run and a real start both begin here, so that what would fail after a download and a warm-up fails at once,
in the dry run too. Left out: what only a model or its data can tell (an adapter's targets, whether matrices can be
dealt out), and whether options' values make sense to what takes them.
"""

from __future__ import annotations

from reasonkit.advantages import ADVANTAGES, WITH_CRITIC
from reasonkit.data.evaluation_sets import check_task
from reasonkit.engines import engine_maker
from reasonkit.envs import ENVS
from reasonkit.losses import CORRECTIONS, LOSSES
from reasonkit.recipe import LossConfig, ModelConfig, Part, Recipe, TrainConfig
from reasonkit.registry import bind, load, with_options
from reasonkit.rewards import RewardSum
from reasonkit.tasks import expand
from reasonkit.trackers import check_installed
from reasonkit.train.collapse import Watch
from reasonkit.train.critic import CriticSettings
from reasonkit.train.judging import open_judge
from reasonkit.train.lora import lora_config
from reasonkit.train.optimizer import OPTIMIZERS, make_schedule
from reasonkit.train.supervised import OBJECTIVES, is_supervised, learning
from reasonkit.train.topology import check_topology
from reasonkit.verifiers.routing import target


def check_recipe(recipe: Recipe) -> None:
    """Refuses what no run of this recipe could honour, wherever it would notice."""
    check_topology(recipe)
    learning(recipe)
    _check_algorithm(recipe)
    _check_loss(recipe.loss)
    _check_train(recipe.train)
    _check_engine(recipe.rollout.engine, recipe.model)
    with_options("environment", recipe.rollout.env.name, ENVS, recipe.rollout.env.options)
    RewardSum(recipe.reward)
    open_judge(recipe.verifier)
    _check_functions(recipe)
    for ref in expand(recipe.validation.tasks):
        check_task(ref)
    for name in recipe.log.trackers:
        check_installed(name)


def _check_algorithm(recipe: Recipe) -> None:
    name, options = recipe.algorithm.name, recipe.algorithm.options
    if is_supervised(recipe):
        bind("algorithm", name, OBJECTIVES[name], options)
        return
    with_options("algorithm", name, ADVANTAGES, options)
    if name in WITH_CRITIC:
        CriticSettings.of(options.get("critic", {}))


def _check_loss(loss: LossConfig) -> None:
    with_options("policy loss", loss.policy.name, LOSSES, loss.policy.options)
    with_options("correction", loss.correction.name, CORRECTIONS, loss.correction.options)


def _check_train(train: TrainConfig) -> None:
    with_options("optimizer", train.optimizer.name, OPTIMIZERS, train.optimizer.options)
    make_schedule(train)
    Watch(train.stop_on)


def _check_engine(engine: Part, model: ModelConfig) -> None:
    engine_maker(engine, model)
    if model.lora is not None:
        lora_config(model.lora)


def _check_functions(recipe: Recipe) -> None:
    """The user's own, named as `module:function`, and the verifiers of mapped sources."""
    sources = [*recipe.data.train, *recipe.data.held_out]
    functions = [source.filter for source in sources]
    if recipe.warmup is not None:
        functions += [recipe.warmup.demonstrator, recipe.warmup.copying]
    if is_supervised(recipe):
        functions.append(recipe.algorithm.options.get("demonstrator"))
    for function in filter(None, functions):
        load(function)
    for verifier in filter(None, [source.verifier for source in sources]):
        load(target(verifier, "strict"))
