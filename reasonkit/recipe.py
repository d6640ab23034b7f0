"""The schema of a recipe: every key that fixes a run, each documented where it stands.

At most 80 keys, checked by a test; an unknown key is an error. Conflicts between keys are found here,
at load, with both offending values. config.py fills this in; nothing else reads YAML.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from reasonkit.errors import nearest

Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
NonNegative = Annotated[float, Field(ge=0.0)]


class Settings(BaseModel):
    """What all sections share: frozen, no unknown keys, docstrings as descriptions."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class ModelConfig(Settings):
    path: str | None = None
    """A Hugging Face model folder, a run (`RUN`, `RUN@step`) or a Hub id; null when `init` makes one."""
    init: dict[str, Any] | None = None
    """Make a new model with random weights from these `transformers` configuration fields (`model_type` names
    the architecture)."""
    alphabet: str = ""
    """With `init`: the characters of the new model's tokenizer, one token each."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the forward pass. The optimizer always keeps float32 masters."""
    context: Positive = 4096
    """The longest sequence, prompt and reply together, that the run may build."""

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if (self.path is None) == (self.init is None):
            raise ValueError(f"exactly one of path ({self.path}) and init ({self.init}) must be given")
        if self.init is not None and not self.alphabet:
            raise ValueError("init makes a new tokenizer too, but alphabet is empty")
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
    weight: NonNegative = 1.0
    """Share of the mixture, relative to the other sources of `data.train`."""
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


class StageConfig(Settings):
    weights: dict[str, NonNegative]
    """Share of each source, by its label or name; sources that are not named rest."""
    records: Positive | None = None
    """The stage ends after this many records, …"""
    pass_rate: Fraction | None = None
    """… or once the mean score of the last `over` rollout batches has reached this. The last stage never ends."""
    over: Positive = 10
    """Rollout batches that `pass_rate` is averaged over."""


class DataConfig(Settings):
    train: list[SourceConfig] = []
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
        weighted = [source for source in self.held_out if source.weight != 1.0]
        if weighted:
            raise ValueError(
                f"held_out source {weighted[0].title} has weight {weighted[0].weight:g}, but all of its "
                "records are validated on; size says how many"
            )
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
    batch: Positive = 64
    """Demonstrations an update."""
    lr: NonNegative = 4e-3
    """Peak learning rate; falls to a tenth along a cosine over two thirds of `max_steps`."""
    max_steps: Positive = 2000
    """Give up, with an error, when the gate has not opened by then."""
    check_every: Positive = 50
    """Updates between two looks at the gate."""
    low: Fraction = 0.25
    """The gate opens when sampled and greedy accuracy on held-out problems have both reached this …"""
    high: Fraction = 0.5
    """… while both are still below this …"""
    min_copied: Fraction = 0.9
    """… and at least this fraction of replies copies its problem rightly."""


class RolloutConfig(Settings):
    engine: str = "transformers"
    """`transformers` (CPU or one GPU), or a user's `module:Class`."""
    env: str = "single_turn"
    """The environment that turns replies into observations (`reasonkit list envs`)."""
    n: Positive = 8
    """Rollouts a record: the size of a group."""
    temperature: Annotated[float, Field(gt=0.0)] = 1.0
    """Log-probabilities in training are taken at this temperature too."""
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Nucleus sampling. Below 1, training log-probs no longer match the sampler; a warning says so."""
    top_k: Annotated[int, Field(ge=0)] = 0
    """Keep the k likeliest tokens; 0 keeps all. The same warning applies."""
    max_tokens: Positive = 1024
    """Longest reply."""
    slots: Positive = 256
    """Sequences that the transformers engine decodes at once."""
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
    policy: str = "clipped"
    """How ratios and advantages become token losses: `clipped` (PPO's), `nll` (imitation), or a user's
    `module:function`."""
    aggregation: Literal["token_mean", "seq_mean_token_mean", "seq_mean_token_sum", "constant"] = "token_mean"
    """How token losses become one number; `constant` divides by sequences × rollout.max_tokens (Dr.GRPO)."""
    clip_low: NonNegative = 0.2
    """The ratio is clipped below at 1 − clip_low."""
    clip_high: NonNegative = 0.2
    """… and above at 1 + clip_high."""
    dual_clip: Annotated[float, Field(gt=1.0)] | None = None
    """For negative advantages the loss is at most this many times −A; null switches it off."""
    entropy: NonNegative = 0.0
    """Weight of the entropy bonus."""
    kl: NonNegative = 0.0
    """Weight of the divergence from the starting model, in the loss."""
    kl_kind: Literal["k1", "k2", "k3"] = "k3"
    """Its estimator."""


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
    lr_warmup: Annotated[int, Field(ge=0)] = 0
    """Optimizer updates over which the rate rises linearly from 0."""
    lr_schedule: Literal["constant", "cosine", "linear"] = "constant"
    """After the warm-up: hold, or fall to a tenth (cosine) or to 0 (linear) by the last update."""
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    """AdamW's decay rates of the first and second moment."""
    weight_decay: NonNegative = 0.01
    """AdamW's decoupled weight decay, on matrices only."""
    grad_clip: Annotated[float, Field(gt=0.0)] = 1.0
    """The gradient's global norm is clipped to this."""
    token_budget: Positive | None = None
    """Tokens of a micro-batch, which is packed without padding. Changes memory and speed, never the gradient;
    null takes 2048 on a CPU (more than its caches hold is slower) and 16384 on a GPU."""
    skip_zero_advantage: bool = True
    """Leave samples whose advantage is 0 out of the forward pass where they cannot change the gradient."""
    threads: Annotated[int, Field(ge=0)] = 0
    """CPU threads of torch; 0 takes the physical cores. Part of what bit-exact resume depends on."""


class ValidationConfig(Settings):
    every: Annotated[int, Field(ge=0)] = 0
    """Steps between two validations; 0 validates only before and after."""
    samples: Positive = 1
    """Sampled replies a held-out record, at rollout.temperature; one greedy reply comes on top."""


class CheckpointConfig(Settings):
    every: Annotated[int, Field(ge=0)] = 0
    """Steps between two checkpoints; 0 keeps only the last. The last step is always saved."""
    keep: Positive = 2
    """How many of the newest to keep, beside the best."""


class LogConfig(Settings):
    rollouts: Annotated[int, Field(ge=0)] = 1
    """Every how many steps the rollouts are written to the run folder; 0 never."""


class Recipe(Settings):
    name: str
    """Names the run folder."""
    description: str = ""
    """One line for `reasonkit list presets`."""
    seed: int = 0
    """Every draw of the run is a hash of this and of what it is for."""
    algorithm: str = "grpo"
    """How rewards become advantages: `grpo`, `dr_grpo`, `rloo`, or a user's `module:function`."""
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
        if self.warmup is not None and self.warmup.low >= self.warmup.high:
            raise ValueError(f"warmup.low ({self.warmup.low}) is not below warmup.high ({self.warmup.high})")
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
