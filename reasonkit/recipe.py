"""The schema of a recipe: every key that fixes a run, each documented where it stands.

At most 80 keys, checked by a test; an unknown key is an error. Conflicts between keys are found here,
at load, with both offending values. config.py fills this in; nothing else reads YAML.

What has several implementations is a part: `name`, or `{name: {option: value}}`. The options of a part are not keys
of the recipe: they are the keyword arguments of what the name stands for, which documents them (`reasonkit show
NAME`) and rejects unknown ones.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, model_validator

from reasonkit.errors import nearest

Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
NonNegative = Annotated[float, Field(ge=0.0)]


@dataclass(frozen=True, slots=True)
class Part:
    """One of several implementations, by name, with its own options."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)


def _read_part(value: Any) -> Any:
    match value:
        case str() | Part():
            return Part(value) if isinstance(value, str) else value
        case dict() if len(value) == 1:
            name, options = next(iter(value.items()))
            if isinstance(name, str) and (options is None or isinstance(options, dict)):
                return Part(name, options or {})
    raise ValueError(f"expected NAME or {{NAME: {{option: value}}}}, but found {value!r}")


def _write_part(part: Part) -> Any:
    return {part.name: part.options} if part.options else part.name


NamedPart = Annotated[Part, BeforeValidator(_read_part), PlainSerializer(_write_part)]


class Settings(BaseModel):
    """What all sections share: frozen, no unknown keys, docstrings as descriptions."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class ModelConfig(Settings):
    path: str | None = None
    """A Hugging Face model folder, a run (`RUN`, `RUN@step`) or a Hub id; null when `init` makes one."""
    init: dict[str, Any] | None = None
    """Make a new model with random weights from these `transformers` configuration fields (`model_type` names
    the architecture); its field `alphabet` holds the characters of the new tokenizer, one token each."""
    lora: dict[str, Any] | None = None
    """Train adapters beside frozen weights: the fields of peft's LoraConfig, such as `{r: 32, lora_alpha: 64}`."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the forward pass. The optimizer always keeps float32 masters."""
    context: Positive = 4096
    """The longest sequence, prompt and reply together, that the run may build."""

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if (self.path is None) == (self.init is None):
            raise ValueError(f"exactly one of path ({self.path}) and init ({self.init}) must be given")
        if self.init is not None and not self.init.get("alphabet"):
            raise ValueError("init makes a new tokenizer too, but its field alphabet is missing or empty")
        return self


class SourceConfig(Settings):
    name: str
    """A generator or published set (`reasonkit list data`), `rg:TASK`, `hf:ORG/NAME@REV`, a set that was pulled or
    built, or a path. A Hub set that was not pulled is streamed."""
    label: str = ""
    """What `data.stages` and the log call it; needed where two sources share a name. Empty takes the name."""
    size: Positive | None = None
    """How many records to take, before `filter`; null takes all. A generator makes them for this run; of a Hub set
    that was not pulled, they are drawn by the run's seed and kept."""
    options: dict[str, Any] = {}
    """What a generator itself understands, such as difficulty (`reasonkit show SOURCE`); of an `hf:` set,
    `files`: a list of patterns."""
    map: dict[str, str] | None = None
    """Columns of rows in no known format: `{question: COLUMN, answer: COLUMN}`, and maybe `system` and `uid`."""
    verifier: str | None = None
    """With `map`: the verifier of these records."""
    filter: str | None = None
    """`module:function` that says whether to keep a record: `(record) -> bool`."""

    @property
    def title(self) -> str:
        return self.label or self.name

    @model_validator(mode="after")
    def _one_way_to_read(self) -> Self:
        if self.verifier is not None and self.map is None:
            raise ValueError(
                f"{self.name}: verifier ({self.verifier}) belongs to map, which is null; "
                "rows in a known format name their own"
            )
        if self.filter is not None and ":" not in self.filter:
            raise ValueError(f"{self.name}: filter '{self.filter}' is not of the form module:function")
        return self


class TrainSourceConfig(SourceConfig):
    weight: NonNegative = 1.0
    """Share of the mixture, relative to the other sources of `data.train`."""


class StageConfig(Settings):
    weights: dict[str, NonNegative]
    """Share of each source, by its label or name; sources that are not named rest."""
    records: Positive | None = None
    """The stage ends after this many records, …"""
    pass_rate: Fraction | None = None
    """… or once the mean score of the last 10 rollout batches has reached this. The last stage never ends."""


class DataConfig(Settings):
    train: list[TrainSourceConfig] = []
    """Sources to train on; several are mixed record by record."""
    held_out: list[SourceConfig] = []
    """Sources to validate on. Procedural sources give problems that share no prompt with training."""
    stages: list[StageConfig] = []
    """A curriculum: the shares of the sources change from stage to stage. Empty keeps each source's `weight`."""
    filter_overlong_prompts: bool | Positive = False
    """Leave out prompts over this many of the model's tokens; true takes what rollout.max_tokens leaves of
    model.context."""

    @model_validator(mode="after")
    def _weights_mean_something(self) -> Self:
        for section, sources in (("train", self.train), ("held_out", self.held_out)):
            titles = [source.title for source in sources]
            for title in titles:
                if titles.count(title) > 1:
                    raise ValueError(f"{section} has '{title}' twice; give each its own label")
        if self.stages:
            self._check_stages()
        elif self.train and not any(source.weight for source in self.train):
            raise ValueError("every source of train has weight 0")
        return self

    def _check_stages(self) -> None:
        titles = [source.title for source in self.train]
        for source in self.train:
            if source.weight != 1.0:
                raise ValueError(
                    f"{source.title} has weight {source.weight:g}, but stages give the weights; remove one of them"
                )
        for number, stage in enumerate(self.stages):
            unknown = sorted(stage.weights.keys() - set(titles))
            if unknown:
                raise ValueError(
                    f"stages[{number}] weighs '{unknown[0]}', which is no source of train "
                    f"({nearest(unknown[0], titles)})"
                )
            if not any(stage.weights.values()):
                raise ValueError(f"stages[{number}] gives no source a weight above 0")
            ends = stage.records is not None or stage.pass_rate is not None
            if ends == (number + 1 == len(self.stages)):
                raise ValueError(
                    f"stages[{number}] is the last and never ends, but has records ({stage.records}) or "
                    f"pass_rate ({stage.pass_rate})"
                    if ends
                    else f"stages[{number}] never ends, so stages[{number + 1}] never begins; give it records "
                    "or pass_rate"
                )
        unused = [title for title in titles if not any(stage.weights.get(title) for stage in self.stages)]
        if unused:
            raise ValueError(f"no stage gives source '{unused[0]}' a weight; remove the source, or weigh it")


class WarmupConfig(Settings):
    demonstrator: str
    """`module:function` that writes the reply to imitate: `(record, seed) -> str`."""
    copying: str
    """`module:function` that says whether a reply copied its problem rightly: `(record, reply) -> bool`."""
    lr: NonNegative = 4e-3
    """Peak learning rate; falls to a tenth along a cosine over two thirds of `max_steps`."""
    max_steps: Positive = 2000
    """Give up, with an error, when the gate (accuracy in [0.25, 0.5), problems copied rightly) has not opened by
    then."""


class RolloutConfig(Settings):
    engine: NamedPart = Part("transformers")
    """What samples (`reasonkit list engines`): `transformers` on a CPU or one GPU, `vllm`, or a user's
    `module:Class`."""
    env: NamedPart = Part("single_turn")
    """The environment that turns replies into observations (`reasonkit list envs`), or a user's `module:Class`."""
    n: Positive = 8
    """Rollouts a record: the size of a group."""
    temperature: Annotated[float, Field(gt=0.0)] = 1.0
    """Log-probabilities in training are taken at this temperature too; given replies are learned at 1."""
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Nucleus sampling. Below 1, training log-probs no longer match the sampler; a warning says so."""
    top_k: Annotated[int, Field(ge=0)] = 0
    """Keep the k likeliest tokens; 0 keeps all. The same warning applies."""
    min_p: Fraction = 0.0
    """Leave out tokens less likely than this fraction of the likeliest. The same warning applies."""
    stop: list[str] = []
    """Texts that end a reply (and stay in it), beside the model's own end of turn."""
    max_tokens: Positive = 1024
    """Longest reply; of an environment with several turns, each."""
    max_observation: Positive | None = None
    """Tokens that an environment may say at once; what is longer is cut, marked and counted."""
    max_staleness: Annotated[int, Field(ge=0)] = 0
    """Weight updates that a sample may lag behind the weights it trains; 0 samples and trains in turn."""
    deadline: Annotated[float, Field(gt=0.0)] = 600.0
    """Seconds that one rollout may take, generation and verification together."""
    max_failed: Fraction = 0.1
    """The run stops, saying what failed, when more than this fraction of a batch's rollouts fails."""


class RewardPart(Settings):
    weight: float = 1.0
    """What the part is multiplied with before the parts are summed."""
    options: dict[str, Any] = {}
    """What the part itself understands (`reasonkit show REWARD`)."""


class LossConfig(Settings):
    policy: NamedPart = Part("clipped")
    """How ratios and advantages become token losses (`reasonkit list losses`), or a user's `module:function`."""
    aggregation: Literal["token_mean", "seq_mean_token_mean", "seq_mean_token_sum", "constant"] = "token_mean"
    """How token losses become one number; `constant` divides by sequences × rollout.max_tokens (Dr.GRPO)."""
    entropy: NonNegative = 0.0
    """Weight of the entropy bonus."""
    kl: NonNegative = 0.0
    """Weight of the divergence from the starting model."""
    kl_kind: Literal["k1", "k2", "k3", "k3_exact", "reward"] = "k3"
    """Its estimator in the loss (`k3_exact` has the gradient that k3 lacks), or `reward`: k1, taken from the
    reward of each token."""
    correction: NamedPart = Part("token_tis")
    """Weighs tokens by how far the learner's log-probs are from those of the engine that sampled them (`reasonkit
    list corrections`); `none` trusts the engine."""


class TrainConfig(Settings):
    steps: Positive = 100
    """Rollout batches to train on."""
    prompts: Positive = 64
    """Records a rollout batch; × rollout.n is the number of samples."""
    mini_batch: Positive | None = None
    """Records an optimizer update; null takes the whole rollout batch."""
    updates_per_rollout: Positive | None = None
    """Optimizer updates a rollout batch, in whole passes over it; null makes one pass."""
    lr: NonNegative = 1e-6
    """AdamW's learning rate."""
    lr_schedule: NamedPart = Part("constant")
    """`constant`, `cosine` (to a tenth) or `linear` (to 0, by the last update), after `warmup` updates over which
    the rate rises from 0: `{linear: {warmup: 10}}`."""
    optimizer: NamedPart = Part("adamw")
    """`adamw`, with `betas` and `weight_decay` (decoupled, on matrices only)."""
    grad_clip: Annotated[float, Field(gt=0.0)] = 1.0
    """The gradient's global norm is clipped to this."""
    token_budget: Positive | None = None
    """Tokens of a micro-batch, which is packed without padding. Changes memory and speed, never the gradient;
    null takes 2048 on a CPU (more than its caches hold is slower) and 16384 on a GPU."""
    refill: Annotated[int, Field(ge=0)] = 0
    """Dynamic sampling: groups whose scores are all equal (rewards, where `reward` has no `correctness`) are
    replaced by new ones, in at most this many further rollout batches; 0 keeps them."""
    save_memory: list[Literal["checkpoint_activations", "offload_optimizer", "offload_parameters"]] = []
    """Ways to need less GPU memory, each at the price of time."""
    compile: bool = False
    """Run the model through `torch.compile`: minutes at the start, faster steps."""
    stop_on: dict[str, float] = {}
    """Stop early on collapse: metrics and the bounds that they must not cross for 5 steps, such as
    `{entropy_below: 0.02, truncated_above: 0.9}`."""
    threads: Annotated[int, Field(ge=0)] = 0
    """CPU threads of torch; 0 takes the physical cores. Part of what bit-exact resume depends on."""


class ValidationConfig(Settings):
    every: Annotated[int, Field(ge=0)] = 0
    """Steps between two validations; 0 validates only before and after."""
    samples: Positive = 1
    """Sampled replies a held-out record, at rollout.temperature; one greedy reply comes on top."""
    tasks: list[str] = []
    """Evaluation tasks to validate on too (`reasonkit list tasks`); `aime24:8` sets the samples."""


class CheckpointConfig(Settings):
    every: Annotated[int, Field(ge=0)] = 0
    """Steps between two checkpoints; 0 keeps only the last. The last step is always saved."""
    keep: Positive = 2
    """How many of the newest to keep, beside the best."""


class LogConfig(Settings):
    rollouts: Annotated[int, Field(ge=0)] = 1
    """Every how many steps the rollouts are written to the run folder; 0 never."""
    trackers: list[Literal["wandb", "trackio", "tensorboard"]] = []
    """Where metrics go beside metrics.jsonl."""
    project: str = "reasonkit"
    """The trackers' project."""
    run_name: str = ""
    """The trackers' name of the run; empty takes the run folder's."""


class ClusterConfig(Settings):
    learners: Annotated[int, Field(ge=0)] = 0
    """Learner processes, one device each; 0 takes all GPUs of the box (less those of separate engines), or one
    process on a CPU."""
    engines: Annotated[int, Field(ge=0)] = 0
    """Engine processes; 0 takes as many as the learners' GPUs are enough for when colocated, else one."""
    colocate: bool = True
    """Engines share the learners' GPUs, asleep while these work; false keeps them apart."""
    parallel: dict[Literal["tensor", "sequence"], Positive] = {}
    """Learners that share one model's matrices (`tensor`) or one sequence's tokens (`sequence`)."""


class Recipe(Settings):
    name: str
    """Names the run folder."""
    description: str = ""
    """One line for `reasonkit list presets`."""
    seed: int = 0
    """Every draw of the run is a hash of this and of what it is for."""
    algorithm: NamedPart = Part("grpo")
    """How rewards become advantages (`reasonkit list algorithms`), or a user's `module:function`; `sft` and `dpo`
    learn from given replies instead."""
    model: ModelConfig
    """The policy."""
    data: DataConfig = DataConfig()
    """What it learns from."""
    warmup: WarmupConfig | None = None
    """Imitate demonstrations first, until a measured gate opens; null starts with RL."""
    rollout: RolloutConfig = RolloutConfig()
    """How replies are sampled."""
    reward: dict[str, float | RewardPart] = {"correctness": 1.0}
    """Parts of the reward and their weights (`reasonkit list rewards`), or a user's `module:function`."""
    verifier: NamedPart = Part("strict")
    """Who judges: `strict`, `reasoning360` (as published scores were made), or `remote`, a reward server
    (`{remote: {url: …}}`)."""
    loss: LossConfig = LossConfig()
    """The policy loss."""
    train: TrainConfig = TrainConfig()
    """The optimizer's side of a step."""
    validation: ValidationConfig = ValidationConfig()
    """Looks at held-out records during training."""
    checkpoint: CheckpointConfig = CheckpointConfig()
    """What is kept to resume from."""
    log: LogConfig = LogConfig()
    """Where numbers and samples go."""
    cluster: ClusterConfig = ClusterConfig()
    """Processes and devices."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        train, rollout = self.train, self.rollout
        if rollout.max_tokens >= self.model.context:
            raise ValueError(
                f"rollout.max_tokens ({rollout.max_tokens}) leaves no room for a prompt within "
                f"model.context ({self.model.context})"
            )
        if self.prompt_limit is not None and self.prompt_limit > self.model.context - rollout.max_tokens:
            raise ValueError(
                f"data.filter_overlong_prompts ({self.prompt_limit}) is more than rollout.max_tokens "
                f"({rollout.max_tokens}) leaves of model.context ({self.model.context})"
            )
        if train.prompts % self.mini_batch:
            raise ValueError(
                f"train.prompts ({train.prompts}) is not divisible by train.mini_batch ({self.mini_batch})"
            )
        if self.updates_per_rollout % (train.prompts // self.mini_batch):
            raise ValueError(
                f"train.updates_per_rollout ({train.updates_per_rollout}) is no whole number of passes: "
                f"one pass over train.prompts takes {train.prompts // self.mini_batch} updates"
            )
        if not self.reward:
            raise ValueError("reward has no part; correctness: 1.0 rewards the verdict's score")
        return self

    @property
    def prompt_limit(self) -> int | None:
        """The longest prompt that data.filter_overlong_prompts keeps; null keeps all."""
        asked = self.data.filter_overlong_prompts
        if asked is True:
            return self.model.context - self.rollout.max_tokens
        return asked or None

    @property
    def mini_batch(self) -> int:
        """Records an optimizer update, with the default filled in."""
        return self.train.mini_batch or self.train.prompts

    @property
    def updates_per_rollout(self) -> int:
        """Optimizer updates a rollout batch, with the default filled in."""
        return self.train.updates_per_rollout or self.train.prompts // self.mini_batch
